#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "cbtm/base/file_lock.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/prefix/prefix_clustering.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// The corpus as the stages of a run read it, which is more than once: standard input and pipes are kept in the run
/// directory first, and the run directory and logs of the run are no part of the corpus. Throws Error if a path is not
/// there.
CorpusOptions corpus_of_run(CorpusOptions options, const RunDirectory& run, bool redo);

/// Held while tokenizer, router and shards of a run are made. Throws Error if another process makes or uses them.
FileLock lock_clusters(const RunDirectory& run);

/// Where the run's tokenizer comes from: a directory, or what is learnt from the corpus.
struct TokenizerSource {
  std::filesystem::path given;  ///< "": it is learnt
  int64_t vocab_size = 32'768;
  int64_t min_frequency = 2;
};

/// The tokenizer stage: afterwards RUN/tokenizer is there.
void make_run_tokenizer(const RunDirectory& run, const TokenizerSource& source, const CorpusOptions& corpus, bool redo,
                        const std::string& command);

/// The cluster stage: router, shards and clusters.json, whose contents it returns. `prefix` is for Clustering::prefix;
/// its vocabulary becomes that of the run's tokenizer.
ClusterManifest make_run_clusters(Device& device, const RunDirectory& run, const ClusterOptions& options,
                                  std::optional<PrefixClusteringOptions> prefix, bool redo, const std::string& command);

/// Throws Error if a shard holds nothing to train on (empty_shards). For commands that train an expert on every shard:
/// `cluster` alone only warns of it.
void refuse_empty_shards(const RunDirectory& run, const ClusterManifest& clusters);

}  // namespace cbtm
