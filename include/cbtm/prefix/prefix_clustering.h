#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/model/spec.h"
#include "cbtm/prefix/prefix_router.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// How a corpus is divided by the likelihoods of prefixes (docs/method.md, 'Prefix router').
struct PrefixClusteringOptions {
  int64_t clusters = 8;
  ModelSpec spec;               ///< of each model
  int64_t prefix_tokens = 256;  ///< M: tokens of a document that are read
  int64_t rounds = 16;          ///< of assigning and training
  int64_t tokens = 0;        ///< that all models together are trained on in all rounds; 0: kPasses times all prefixes
  double learning_rate = 0;  ///< peak
  int64_t documents_max = 200'000;  ///< of those for training, drawn by hash: what the models learn from
  bool balance_shards = false;      ///< final clusters of exactly equal size, instead of each document's likeliest
  uint64_t seed = 1234;

  static constexpr int64_t kPasses = 4;
};

/// The options that change the result, for the settings of a stage.
Json prefix_clustering_json(const PrefixClusteringOptions& options);

/// A corpus that was divided.
struct PrefixClustering {
  std::vector<int32_t> labels;           ///< of each document, in the order of reading
  std::unique_ptr<PrefixRouter> router;  ///< its files are the state's: save() it before remove_prefix_state()
  int64_t documents = 0;                 ///< that the models learnt from
  /// Per round but the first: mean of −ln p(token) of the round's prefixes under the models that they were assigned to,
  /// before these were trained on them.
  std::vector<double> losses;
  double relative_gap = 0;  ///< of the last round's assignment
};

/// Trains one small model per cluster, in rounds that each take further documents: assign their prefixes to the models
/// by likelihood, at the least total cost and as many to each (balanced_assignment), then train each model on its
/// share. The first round's assignment is random. Afterwards every document of the corpus goes to the model under which
/// its prefix is likeliest.
///
/// After each round its state is in `work_directory`; with the same `identity` another call goes on from there, and
/// ends with the same bits as one that was never stopped. `counted` is what an earlier pass over the corpus gave out.
/// Reads the corpus twice. Throws Error, also when a signal asks to stop.
PrefixClustering cluster_by_prefix(Device& device, const Tokenizer& tokenizer, const CorpusOptions& corpus,
                                   const HeldOutSplit& split, const CorpusDigest& counted,
                                   const PrefixClusteringOptions& options, const std::filesystem::path& work_directory,
                                   const Json& identity);

/// Removes what cluster_by_prefix() keeps, once its result is stored.
void remove_prefix_state(const std::filesystem::path& work_directory);

}  // namespace cbtm
