#include "commands/prefix_flags.h"

#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "commands/training_flags.h"

namespace cbtm {

bool asks_for_prefix_router(const CommandLine& line) {
  const std::string kind = line.text("router");
  if (kind != "tfidf" && kind != "prefix") fail_usage("--router {}: use tfidf or prefix", kind);
  if (kind == "tfidf") {
    for (const char* flag :
         {"prefix-tokens", "router-preset", "router-rounds", "router-tokens", "router-learning-rate"})
      if (line.given(flag)) fail_usage("--{} does nothing without --router prefix", flag);
    return false;
  }
  for (const char* flag : {"clustering", "unbalanced", "domain-field", "kmeans-init", "restarts"})
    if (line.given(flag))
      fail_usage("--{} does nothing with --router prefix, whose models divide the corpus themselves; leave it out",
                 flag);
  return true;
}

std::optional<PrefixClusteringOptions> prefix_clustering_options(const CommandLine& line) {
  if (!asks_for_prefix_router(line)) return std::nullopt;
  PrefixClusteringOptions options;
  options.clusters = line.integer("k", 1, 65'536);
  options.spec = model_preset(line.text("router-preset"));
  options.prefix_tokens = line.integer("prefix-tokens", 1);
  if (options.prefix_tokens > options.spec.embedding.max_length)
    fail_usage("--prefix-tokens {} is more than the {} positions of --router-preset {}", options.prefix_tokens,
               options.spec.embedding.max_length, line.text("router-preset"));
  options.rounds = line.integer("router-rounds", 1, 1'000'000);
  if (line.given("router-tokens")) options.tokens = line.integer("router-tokens", 1);
  options.learning_rate = line.given("router-learning-rate") ? line.number("router-learning-rate", 0, 10)
                                                             : default_learning_rate(options.spec.hidden_size);
  options.documents_max = line.integer("fit-documents", 1);
  options.balance_shards = line.get<bool>("balance-shards");
  options.seed = line.common().seed;
  return options;
}

}  // namespace cbtm
