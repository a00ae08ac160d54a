#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace cbtm {

/// The paths within one run (docs/formats.md, 'Run directory'). Everything that commands share lies under one
/// directory.
class RunDirectory {
 public:
  explicit RunDirectory(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path run_json() const { return root_ / "run.json"; }
  std::filesystem::path tokenizer() const { return root_ / "tokenizer"; }
  std::filesystem::path seed() const { return root_ / "seed"; }
  std::filesystem::path baseline() const { return root_ / "baseline"; }
  std::filesystem::path mixture() const { return root_ / "moe"; }  ///< the baseline that is a mixture of experts
  std::filesystem::path router() const { return root_ / "router"; }
  std::filesystem::path clusters_json() const { return root_ / "clusters.json"; }  ///< sizes, objective, map sample
  std::filesystem::path shards() const { return root_ / "shards"; }
  /// The clusters.json and router of the set itself. The paths above are copies of them (cbtm/run/cluster_manifest.h).
  std::filesystem::path shards_clusters_json() const { return shards() / "clusters.json"; }
  std::filesystem::path shards_router() const { return shards() / "router"; }
  std::filesystem::path shard(int64_t cluster) const { return shards() / cluster_name(cluster); }
  std::filesystem::path experts() const { return root_ / "experts"; }
  std::filesystem::path expert(int64_t cluster) const { return experts() / cluster_name(cluster); }
  std::filesystem::path experts_router() const { return experts() / "router"; }
  /// A run directory of its own, with models from the middle of a training: snapshot 1, 2, ...
  std::filesystem::path snapshot(int64_t number) const { return snapshots() / std::to_string(number); }
  std::filesystem::path snapshots() const { return root_ / "snapshots"; }
  std::filesystem::path evaluation() const { return root_ / "evaluation"; }  ///< JSON results of evaluate
  std::filesystem::path report() const { return root_ / "report.html"; }

  /// Locked exclusively to write tokenizer, router and shards, and shared to read them for a long time.
  std::filesystem::path clusters_lock() const { return root_ / ".clusters.lock"; }

  /// "003".
  static std::string cluster_name(int64_t cluster);

 private:
  std::filesystem::path root_;
};

/// Throws Error, naming the obstacle, unless everything that a run makes may be put under its directory: each path is
/// free or holds something that cbtm made (check_replaceable). Also removes what dead processes left unfinished.
void prepare_run_directory(const RunDirectory& run);

}  // namespace cbtm
