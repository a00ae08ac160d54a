#include "commands/commands.h"

namespace cbtm {

std::span<const Command> commands() {
  static constexpr Command kCommands[] = {
      {"run", "everything below in order: from a corpus to an evaluated ensemble and a report", run_run},
      {"tokenizer", "train a byte-level BPE tokenizer, encode or decode with one", run_tokenizer},
      {"cluster", "find the domains of a corpus; write router and shards", run_cluster},
      {"train_seed", "train (or take over) the model that all experts branch from", run_train_seed},
      {"train_expert", "train one expert on its own shard", run_train_expert},
      {"upcycle", "make a mixture of experts of a dense model, by sparse upcycling", run_upcycle},
      {"ensemble", "generate with, or evaluate, the experts together", run_ensemble},
      {"serve", "serve the experts together, or one model, to clients of OpenAI's API and to browsers", run_serve},
      {"generate", "generate with one model", run_generate},
      {"evaluate", "perplexity of one model", run_evaluate},
      {"fewshot", "few-shot classification: accuracy of a model, or of the experts together", run_fewshot},
      {"study", "compare every system of the papers on one corpus: k, budgets, clusterings, routers", run_study},
      {"logits", "write a model's logits for given ids", run_logits},
      {"inspect", "say what a run, router, shard, tokenizer or checkpoint holds", run_inspect},
      {"plan", "memory, time and cost of a run for several numbers of experts, before it is made", run_plan},
      {"bench", "measure training or decoding speed", run_bench},
      {"devices", "list the devices of this machine", run_devices},
  };
  return kCommands;
}

}  // namespace cbtm
