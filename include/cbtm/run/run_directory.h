#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

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

/// The settings, inputs and result of a finished stage. It is kept in run.json under "stages" (docs/formats.md,
/// 'run.json').
struct StageRecord {
  std::string name;     ///< "tokenizer", "cluster", "seed", "expert/003", "baseline", "evaluate"
  Json settings;        ///< everything that changes the result
  Json inputs;          ///< name -> content hash or fingerprint of each input
  std::string command;  ///< as typed
  double seconds = 0;
  Json summary = Json::object();  ///< numbers for the report
  Json result;  ///< content hash of the stage's output, or null; the record is valid for this output only
};

enum class StageState : uint8_t { missing, current, changed };

/// Compares `wanted` with the record in run.json. If they differ, `difference` names the settings or inputs in words
/// ("k was 8, is 4; the corpus has changed").
///
/// If `wanted.result` is not null it is the hash of the output that exists now. A record of another result then counts
/// as missing: a process made the stage again and died before it could record it.
StageState stage_state(const RunDirectory& run, const StageRecord& wanted, std::string& difference);
/// The same words for two sets of settings and inputs. "" if they are equal.
std::string stage_difference(const Json& settings_before, const Json& inputs_before, const StageRecord& wanted);
/// Adds or replaces the record, with the version and the time. run.json is locked meanwhile, since several experts may
/// finish at the same time.
void record_stage(const RunDirectory& run, const StageRecord& record);
/// The record of a finished stage as JSON, or null.
Json find_stage(const RunDirectory& run, const std::string& name);

}  // namespace cbtm
