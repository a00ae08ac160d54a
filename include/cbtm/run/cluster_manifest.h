#pragma once

#include <cstdint>
#include <string>

#include "cbtm/base/json.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

// Shards, router and clusters.json, which `cbtm cluster` makes, are one set. All three lie in RUN/shards and appear
// there in one rename. RUN/router and RUN/clusters.json are copies for people and for other programs.

/// Reads the clusters.json of a run and checks it: `clusters`, `vocab_size`, `router_hash`, `tokenizer_hash`, `sizes`
/// and `top_terms` are there and fit each other. Copies that a killed process left outdated are renewed. Throws Error
/// that says to cluster first, or names the damaged key.
Json read_clusters(const RunDirectory& run);

/// The number of training tokens in all shards.
int64_t train_tokens(const Json& clusters);

/// Copies router and clusters.json of the set in RUN/shards to RUN/router and RUN/clusters.json.
void publish_clusters(const RunDirectory& run);

/// Content hashes of all files of the shards and of their router in `directory`, for clusters.json. Keys are relative
/// paths.
Json shard_hashes(const std::filesystem::path& directory, int64_t clusters);

/// Compares the files of one split ("train", "valid", "tune") of a shard with clusters.json, as verify_content does.
void verify_shard(const RunDirectory& run, const Json& clusters, int64_t cluster, const std::string& split);

/// The recorded hash of a shard's training data. If clusters.json has none, the files are hashed.
std::string shard_training_hash(const RunDirectory& run, const Json& clusters, int64_t cluster);

}  // namespace cbtm
