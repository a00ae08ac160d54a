#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

// Shards, router and clusters.json, which `cbtm cluster` makes, are one set. All three lie in RUN/shards and appear
// there in one rename. RUN/router and RUN/clusters.json are copies for people and for other programs.

/// Documents and tokens of one shard, by split.
struct ShardSize {
  int64_t train_documents = 0, train_tokens = 0;
  int64_t valid_documents = 0, valid_tokens = 0;
  int64_t tune_documents = 0, tune_tokens = 0;
};

/// A document of the map that the report shows.
struct MapDocument {
  double x = 0, y = 0;
  int64_t cluster = 0;
};

/// The contents of clusters.json (docs/formats.md, 'clusters.json'). Numbers that a file does not hold are NaN or -1.
struct ClusterManifest {
  std::string clustering;  ///< "balanced", "unbalanced", "random", "domains", "prefix" (cbtm/cluster/clustering.h)
  std::string router;      ///< the kind of the set's router: "tfidf", "prefix"
  int64_t clusters = 0;
  int64_t vocab_size = -1;
  std::string router_hash, tokenizer_hash;
  std::vector<ShardSize> sizes;                     ///< [clusters]
  std::vector<std::vector<std::string>> top_terms;  ///< [clusters]
  std::vector<std::vector<std::string>> domains;    ///< [clusters]: the domains of each; empty without domains
  int64_t documents = -1;
  int64_t documents_without_words = -1;
  double label_objective = std::numeric_limits<double>::quiet_NaN();
  double balance = std::numeric_limits<double>::quiet_NaN();  ///< tokens of the largest shard over the mean
  double valid_fraction = std::numeric_limits<double>::quiet_NaN();
  double tune_fraction = std::numeric_limits<double>::quiet_NaN();
  // The fit of the router.
  int64_t fit_documents = -1, fit_documents_without_words = -1;
  int64_t terms = -1, dimensions = -1, svd_iterations = -1;
  double objective = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> objectives;  ///< of each iteration of the best start
  double duality_gap = std::numeric_limits<double>::quiet_NaN();
  std::vector<MapDocument> map;
  Json corpus;  ///< what was read (corpus_statistics_json), or null
  Json files;   ///< content hashes of the set's files (shard_hashes), or null
  // How the set was made, as in run.json; null and empty if the file does not say.
  Json settings, inputs;
  std::string command;

  /// The number of training tokens in all shards.
  int64_t train_tokens() const;
};

/// Reads the JSON of a clusters.json. `sizes` and `top_terms` must be there and fit each other. Throws Error that names
/// `file` and the key if a value has the wrong type or cannot be.
ClusterManifest parse_cluster_manifest(const Json& json, const std::string& file);
Json cluster_manifest_json(const ClusterManifest& manifest);

/// Reads the clusters.json of a run, which must hold all that trainings need: also `vocab_size` and both hashes. Copies
/// that a killed process left outdated are renewed. Throws Error that says to cluster first, or names the damaged key.
ClusterManifest read_clusters(const RunDirectory& run);

/// Copies router and clusters.json of the set in RUN/shards to RUN/router and RUN/clusters.json.
void publish_clusters(const RunDirectory& run);

/// Content hashes of all files of the shards and of their router in `directory`, for clusters.json. Keys are relative
/// paths.
Json shard_hashes(const std::filesystem::path& directory, int64_t clusters);

/// Compares the files of one split ("train", "valid", "tune") of a shard with clusters.json, as verify_content does.
void verify_shard(const RunDirectory& run, const ClusterManifest& clusters, int64_t cluster, const std::string& split);

/// The recorded hash of a shard's training data. If clusters.json has none, the files are hashed.
std::string shard_training_hash(const RunDirectory& run, const ClusterManifest& clusters, int64_t cluster);

}  // namespace cbtm
