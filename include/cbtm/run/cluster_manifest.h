#pragma once

#include <cstdint>
#include <string>

#include "cbtm/base/json.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// What `cbtm cluster` made: shards, router and clusters.json are one set. All three lie in RUN/shards and appear there
/// in one rename; RUN/router and RUN/clusters.json are copies for people and for other programs, put there afterwards.

/// clusters.json of the run, checked: `clusters`, `vocab_size`, `router_hash`, `tokenizer_hash`, `sizes` and
/// `top_terms` are there and fit each other. Copies that a killed process did not bring up to date are renewed. Throws
/// Error that says to cluster first, or names the key that is damaged.
Json read_clusters(const RunDirectory& run);

/// Training tokens of all shards.
int64_t train_tokens(const Json& clusters);

/// Puts the copies of a set that lies in RUN/shards beside it: RUN/router and RUN/clusters.json.
void publish_clusters(const RunDirectory& run);

/// Content hashes of all files of the shards and of their router in `directory`, by path relative to it, for
/// clusters.json.
Json shard_hashes(const std::filesystem::path& directory, int64_t clusters);

/// Checks the files of a shard's split ("train", "valid", "tune") against clusters.json: see verify_content.
void verify_shard(const RunDirectory& run, const Json& clusters, int64_t cluster, const std::string& split);

/// The recorded hash of a shard's training data, or the hash of the files themselves where clusters.json has none.
std::string shard_training_hash(const RunDirectory& run, const Json& clusters, int64_t cluster);

}  // namespace cbtm
