// The command line as a person meets it: help that teaches, errors in one line, exit codes.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::vector<std::string> kCommands = {"run",      "tokenizer", "cluster",  "train_seed", "train_expert",
                                            "ensemble", "generate",  "evaluate", "fewshot",    "logits",
                                            "inspect",  "bench",     "devices"};

TEST_CASE("without a command the overview goes to stderr, with --help to stdout") {
  const Outcome bare = run_cbtm({});
  CHECK(bare.exit_code == kExitUsage);
  CHECK(bare.output.empty());
  const Outcome help = run_cbtm({"--help"});
  CHECK(help.exit_code == 0);
  for (const std::string& command : kCommands) CHECK(help.output.find("  " + command + " ") != std::string::npos);
  CHECK(run_cbtm({"--version"}).output.starts_with("cbtm "));
}

TEST_CASE("every command's help says its purpose, its flags and an example") {
  for (const std::string& command : kCommands) {
    CAPTURE(command);
    const Outcome help = run_cbtm({command, "--help"});
    CHECK(help.exit_code == 0);
    CHECK(help.errors.empty());
    CHECK(help.output.find("usage: cbtm " + command) != std::string::npos);
    CHECK(help.output.find("--help") != std::string::npos);
    CHECK(help.output.find("cbtm " + command, help.output.find("example")) != std::string::npos);
  }
}

TEST_CASE("wrong names are met with the nearest right one") {
  check_error(run_cbtm({"clutser"}), kExitUsage, "did you mean 'cluster'?");
  check_error(run_cbtm({"qqqqqqqq"}), kExitUsage, "cbtm --help");
  check_error(run_cbtm({"cluster", "--corpsu", "x"}), kExitUsage, "did you mean --corpus?");
  // A forgotten value is not a file by the name of the next flag.
  check_error(run_cbtm({"cluster", "--corpus", "x", "--run", "--k", "2"}), kExitUsage, "--run needs a value");
  check_error(run_cbtm({"cluster", "--corpus", "x", "--k", "2", "--json", "--quiet"}), kExitUsage,
              "--json needs a value");
  check_error(run_cbtm({"train_expert", "--learning-rat=1"}), kExitUsage, "did you mean --learning-rate?");
}

TEST_CASE("missing and malformed values name their flag") {
  const TemporaryDirectory empty;
  check_error(run_cbtm({"cluster", "--out", "run"}, empty.path()), kExitUsage, "--corpus");
  check_error(run_cbtm({"cluster", "--corpus", "--out", "run"}, empty.path()), kExitUsage, "--corpus");
  check_error(run_cbtm({"logits", "--threads", "0"}), kExitUsage, "--threads");
  check_error(run_cbtm({"logits", "--threads", "two"}), kExitUsage, "two");
  check_error(run_cbtm({"devices", "stray"}), kExitUsage, "stray");
}

TEST_CASE("paths that are not there are named") {
  const TemporaryDirectory empty;
  check_error(run_cbtm({"cluster", "--corpus", "nowhere", "--k", "2", "--out", "run"}, empty.path()), kExitFailure,
              "nowhere");
  check_error(run_cbtm({"generate", "--model", "nowhere", "--prompt", "a", "--max-new-tokens", "1"}, empty.path()),
              kExitFailure, "nowhere");
  check_error(run_cbtm({"inspect", "nowhere"}, empty.path()), kExitFailure, "nowhere");
  check_error(run_cbtm({"train_expert", "--shard", "0"}, empty.path()), kExitFailure, "run");
}

TEST_CASE("a GPU that is not there is an error, never a CPU run") {
  check_error(run_cbtm({"bench", "train", "--model", ".", "--device", "cuda:7"}), kExitFailure, "cuda");
}

TEST_CASE("the CPU build is one static file") {
  if (!CBTM_LINKED_STATICALLY) return;
  const Outcome linked = run_program({"ldd", CBTM_BINARY});
  CHECK((linked.output + linked.errors).find("not a dynamic executable") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
