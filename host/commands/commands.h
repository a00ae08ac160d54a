#pragma once

#include <span>

namespace cbtm {

/// A subcommand: its name, one line for the overview, and what runs it. argv[0] is the command's own name.
/// Returns the exit code; throws Error.
struct Command {
  const char* name;
  const char* purpose;
  int (*run)(int argc, char** argv);
};

/// All commands, in the order of the overview.
std::span<const Command> commands();

int run_run(int argc, char** argv);
int run_tokenizer(int argc, char** argv);
int run_cluster(int argc, char** argv);
int run_train_seed(int argc, char** argv);
int run_train_expert(int argc, char** argv);
int run_upcycle(int argc, char** argv);
int run_ensemble(int argc, char** argv);
int run_serve(int argc, char** argv);
int run_generate(int argc, char** argv);
int run_evaluate(int argc, char** argv);
int run_bench(int argc, char** argv);
int run_fewshot(int argc, char** argv);
int run_study(int argc, char** argv);
int run_logits(int argc, char** argv);
int run_inspect(int argc, char** argv);
int run_plan(int argc, char** argv);
int run_devices(int argc, char** argv);

}  // namespace cbtm
