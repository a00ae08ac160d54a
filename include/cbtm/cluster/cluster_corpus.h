#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "cbtm/base/json.h"
#include "cbtm/cluster/kmeans.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

struct ClusterOptions {
  CorpusOptions corpus;
  int64_t clusters = 8;
  int64_t dimensions = 100;         ///< of the SVD
  int64_t min_df = 1;               ///< terms of fewer documents are left out of the vocabulary
  int64_t fit_documents = 200'000;  ///< at most this many train documents, drawn by hash, fit tf-idf, SVD and k-means
  bool balanced_fit = true;         ///< balanced k-means (the paper's way)
  bool balance_shards = false;      ///< equal shards too, instead of each document to its nearest centre
  KMeansInit init = KMeansInit::plus_plus;
  int64_t restarts = 3;
  double valid_fraction = 0.01;  ///< of each held-out split, valid and tune
  uint64_t seed = 1234;
  bool allow_empty_shards = false;  ///< warn of shards without a training document; else they are an Error
};

/// The settings that change the result, for run.json.
Json cluster_settings(const ClusterOptions& options);

/// Finds the domains of a corpus and deals it out (docs/method.md): writes run/router, run/shards/NNN (train, valid and
/// tune datasets with a list of their documents) and run/clusters.json, as one set. The corpus is read three times, in
/// a stream. `stage`: what clusters.json shall hold besides, of how it was made. Returns what clusters.json holds.
/// Throws Error.
Json cluster_corpus(Device& device, const Tokenizer& tokenizer, const ClusterOptions& options, const RunDirectory& run,
                    const Json& stage = Json::object());

/// What is wrong with shards of these sizes (those of clusters.json), or "": shards without a training token, which no
/// expert can learn from. A sentence that names them and what to do.
std::string empty_shards(const Json& sizes);

/// Learns a tokenizer from (at most `text_bytes_max` bytes of) the corpus and writes it to `directory`. `statistics`
/// gets what was read.
Json train_corpus_tokenizer(const CorpusOptions& corpus, int64_t vocab_size, int64_t min_frequency,
                            int64_t text_bytes_max, const std::filesystem::path& directory,
                            CorpusStatistics& statistics);

}  // namespace cbtm
