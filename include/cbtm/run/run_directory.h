#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// The places of one run (docs/formats.md): everything that commands share lies under one directory.
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
  /// The set's own clusters.json and router, of which those above are copies (cbtm/run/cluster_manifest.h).
  std::filesystem::path shards_clusters_json() const { return shards() / "clusters.json"; }
  std::filesystem::path shards_router() const { return shards() / "router"; }
  std::filesystem::path shard(int64_t cluster) const { return shards() / cluster_name(cluster); }
  std::filesystem::path experts() const { return root_ / "experts"; }
  std::filesystem::path expert(int64_t cluster) const { return experts() / cluster_name(cluster); }
  std::filesystem::path experts_router() const { return experts() / "router"; }
  /// A run directory of its own, of models as they were on the way: snapshot 1, 2, ...
  std::filesystem::path snapshot(int64_t number) const { return snapshots() / std::to_string(number); }
  std::filesystem::path snapshots() const { return root_ / "snapshots"; }
  std::filesystem::path evaluation() const { return root_ / "evaluation"; }  ///< JSON results of evaluate
  std::filesystem::path report() const { return root_ / "report.html"; }

  /// Locked by who writes tokenizer, router and shards (alone) or reads them for long (together with others).
  std::filesystem::path clusters_lock() const { return root_ / ".clusters.lock"; }

  /// "003".
  static std::string cluster_name(int64_t cluster);

 private:
  std::filesystem::path root_;
};

/// Throws Error, naming what is in the way, unless all that a run makes under its directory may be put there: each
/// place is free, or holds what cbtm made (check_replaceable). Also removes what dead processes left there unfinished.
void prepare_run_directory(const RunDirectory& run);

/// What a finished stage was made from; kept in run.json under "stages".
struct StageRecord {
  std::string name;     ///< "tokenizer", "cluster", "seed", "expert/003", "baseline", "evaluate"
  Json settings;        ///< everything that changes the result
  Json inputs;          ///< name -> content hash or fingerprint of what it read
  std::string command;  ///< as typed
  double seconds = 0;
  Json summary = Json::object();  ///< numbers for the report
  Json result;  ///< content hash of what the stage made, or null: a record does not count for anything else
};

enum class StageState : uint8_t { missing, current, changed };

/// Compares with the record in run.json. If changed, `difference` says in words which setting or input differs
/// ("k was 8, is 4; the corpus has changed"). `wanted.result`, if it is not null, is of what lies there now: a record
/// of another result is an old one whose stage was made again by a process that died before it could say so, and counts
/// as missing.
StageState stage_state(const RunDirectory& run, const StageRecord& wanted, std::string& difference);
/// The same words for two sets of settings and inputs; "" if they are equal.
std::string stage_difference(const Json& settings_before, const Json& inputs_before, const StageRecord& wanted);
/// Adds or replaces the record, with the version and the time. run.json is locked while it is rewritten: experts may
/// finish at the same time.
void record_stage(const RunDirectory& run, const StageRecord& record);
/// The record of a finished stage as JSON, or null.
Json find_stage(const RunDirectory& run, const std::string& name);

}  // namespace cbtm
