// Rounds of assigning and training: domains that share no words are found, whatever the models began with.

#include "cbtm/prefix/prefix_clustering.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "cbtm/base/philox.h"
#include "cbtm/base/threads.h"
#include "cbtm/device/device.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::vector<std::vector<std::string>> kTopics = {
    {"flour", "oven", "butter", "knead", "dough", "yeast", "bake", "crust"},
    {"comet", "orbit", "planet", "galaxy", "lunar", "nebula", "solar", "meteor"},
    {"ledger", "invoice", "audit", "debit", "tariff", "broker", "payroll", "escrow"}};

struct TopicCorpus {
  explicit TopicCorpus(int documents) {
    PhiloxStream random(21, 0);
    std::ofstream file(directory / "corpus.jsonl");
    for (int d = 0; d < documents; ++d) {
      const size_t topic = random.next_below(kTopics.size());
      std::string text;
      for (uint64_t words = 3 + random.next_below(14); words > 0; --words)
        text += kTopics[topic][random.next_below(kTopics[topic].size())] + " ";
      file << Json{{"text", text}}.dump() << "\n";
      topics.push_back(topic);
    }
    file.close();
    options.paths = {(directory / "corpus.jsonl").string()};
    options.keep_duplicates = true;
    CorpusReader reader(options);
    for (Document document; reader.next(document);) {
    }
    counted = reader.digest();
    split = HeldOutSplit::for_corpus(counted.documents, 0.01, 10);
  }
  TemporaryDirectory directory;
  CorpusOptions options;
  CorpusDigest counted;
  HeldOutSplit split;
  std::vector<size_t> topics;
};

PrefixClusteringOptions small_options() {
  return {.clusters = 3,
          .spec = OptShape{.vocab_size = 1264,
                           .hidden_size = 32,
                           .num_hidden_layers = 1,
                           .ffn_dim = 64,
                           .max_position_embeddings = 32,
                           .word_embed_proj_dim = 32},
          .prefix_tokens = 24,
          .rounds = 10,
          .tokens = 0,
          .learning_rate = 1e-2,
          .seed = 3};
}

/// The share of documents that are in the cluster of the most of their topic.
double purity(const std::vector<int32_t>& labels, const std::vector<size_t>& topics) {
  std::map<size_t, std::map<int32_t, int>> counts;
  for (size_t i = 0; i < labels.size(); ++i) ++counts[topics[i]][labels[i]];
  int right = 0;
  std::vector<int32_t> majority;
  for (const auto& [topic, of] : counts) {
    const auto most = std::max_element(of.begin(), of.end(), [](auto a, auto b) { return a.second < b.second; });
    right += most->second;
    majority.push_back(most->first);
  }
  std::sort(majority.begin(), majority.end());
  const bool different = std::unique(majority.begin(), majority.end()) == majority.end();
  return different ? right / static_cast<double>(labels.size()) : 0;
}

TEST_CASE("domains are recovered, the same for every call, with documents shorter and longer than a prefix") {
  set_thread_count(1);  // at this size a second thread only waits
  const TopicCorpus corpus(360);
  const Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny");
  const auto device = make_cpu_device();
  const auto run = [&](const PrefixClusteringOptions& options, const char* name) {
    return cluster_by_prefix(*device, tokenizer, corpus.options, corpus.split, corpus.counted, options,
                             corpus.directory / name, {{"test", name}});
  };
  const PrefixClusteringOptions options = small_options();
  const PrefixClustering made = run(options, "a");
  CHECK(purity(made.labels, corpus.topics) >= 0.95);
  REQUIRE(made.losses.size() == 9);
  CHECK(made.losses.back() < made.losses.front() - 1);
  CHECK(std::abs(made.relative_gap) < 1e-6);
  const PrefixClustering again = run(options, "b");
  CHECK(again.labels == made.labels);
  CHECK(again.router->content_hash() == made.router->content_hash());
  // A finished state is taken as it is.
  const PrefixClustering resumed = run(options, "a");
  CHECK(resumed.router->content_hash() == made.router->content_hash());
  CHECK(resumed.losses == made.losses);

  PrefixClusteringOptions balanced = options;
  balanced.balance_shards = true;
  std::vector<int> sizes(3);
  for (const int32_t label : run(balanced, "a").labels) ++sizes[static_cast<size_t>(label)];
  CHECK(sizes == std::vector<int>{120, 120, 120});

  remove_prefix_state(corpus.directory / "a");
  CHECK(!std::filesystem::exists(corpus.directory / "a"));
}

}  // namespace
}  // namespace cbtm
