#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/cluster/clustering.h"
#include "cbtm/cluster/kmeans.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/route/router.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// Text that a corpus's tokenizer is learnt from, at most.
inline constexpr int64_t kTokenizerTextBytesMax = int64_t{256} << 20;

struct ClusterOptions {
  CorpusOptions corpus;
  Clustering clustering = Clustering::balanced;
  std::string domain_field;  ///< of Clustering::domains; "": the first directory below the corpus path
  /// A tf-idf router whose words, idf, SVD and scaling are taken over; "": they are fitted.
  std::filesystem::path embedding;
  int64_t clusters = 8;      ///< 0, for Clustering::domains only: as many as there are domains
  int64_t dimensions = 100;  ///< of the SVD
  EmbeddingScaling scaling = EmbeddingScaling::l2;
  int64_t min_df = 1;               ///< terms of fewer documents are left out of the vocabulary
  int64_t fit_documents = 200'000;  ///< at most so many train documents, drawn by hash, fit tf-idf, SVD and k-means
  /// Exactly equal shards, instead of each document to its nearest centre; of k-means and prefixes only.
  bool balance_shards = false;
  KMeansInit init = KMeansInit::plus_plus;
  int64_t restarts = 3;
  double valid_fraction = 0.01;  ///< fraction of valid, and also of tune
  uint64_t seed = 1234;
  bool allow_empty_shards = false;  ///< warn of shards without a training document, instead of an Error
};

/// A corpus that a router of another kind than tf-idf has divided.
struct RouterDivision {
  std::unique_ptr<Router> router;
  std::vector<int32_t> labels;     ///< of each document, in the order of reading
  int64_t documents = 0;           ///< that the router learnt from
  std::vector<double> objectives;  ///< of its rounds
  double duality_gap = 0;          ///< of the last assignment
};
/// Divides the corpus, of which an earlier pass gave out `counted`, for Clustering::prefix.
using DivideCorpus = std::function<RouterDivision(const HeldOutSplit& split, const CorpusDigest& counted)>;

/// How a set was made, for its clusters.json.
struct ClusterOrigin {
  Json settings;  ///< cluster_settings, or null
  Json inputs;    ///< name -> hash, or null
  std::string command;
};

/// The settings that change the result, for run.json.
Json cluster_settings(const ClusterOptions& options);

/// Finds the domains of a corpus and distributes its documents (docs/method.md). Writes run/router, run/shards/NNN
/// (train, valid and tune datasets with a list of their documents) and run/clusters.json as one set. Reads the corpus
/// three times, as a stream, and once more for equal shards and for random clusters. `divide` is for
/// Clustering::prefix: its router is the set's, with the tf-idf router of the same clusters beside it, in
/// `router/tfidf`. Returns the contents of clusters.json. Throws Error.
ClusterManifest cluster_corpus(Device& device, const Tokenizer& tokenizer, const ClusterOptions& options,
                               const RunDirectory& run, const ClusterOrigin& origin = {},
                               const DivideCorpus& divide = {});

/// A sentence that names the shards without a training token (no expert can learn from them) and says what to do, or
/// "".
std::string empty_shards(std::span<const ShardSize> sizes);

/// Learns a tokenizer from at most `text_bytes_max` bytes of the corpus and writes it to `directory`. `statistics`
/// receives what was read.
Json train_corpus_tokenizer(const CorpusOptions& corpus, int64_t vocab_size, int64_t min_frequency,
                            int64_t text_bytes_max, const std::filesystem::path& directory,
                            CorpusStatistics& statistics);

}  // namespace cbtm
