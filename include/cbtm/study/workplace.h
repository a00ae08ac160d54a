#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "cbtm/base/file_lock.h"
#include "cbtm/cluster/clustering.h"
#include "cbtm/run/run_directory.h"

namespace cbtm::study {

/// The paths within a study's directory (docs/formats.md, 'Study directory'). What several cells share is a run
/// directory of its own; a cell is one too, with links to what it shares.
class Workplace {
 public:
  explicit Workplace(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  /// What the study is of: its configuration and its corpus's fingerprint.
  std::filesystem::path configuration() const { return root_ / "configuration.json"; }
  std::filesystem::path study_json() const { return root_ / "study.json"; }
  std::filesystem::path times_json() const { return root_ / "study-times.json"; }
  std::filesystem::path page() const { return root_ / "study.html"; }
  /// The whole corpus as one shard, with the tokenizer and the embedding that all clusterings share.
  RunDirectory corpus() const { return RunDirectory(root_ / "corpus"); }
  /// "clusterings/balanced-k4-s1"; the domains of a corpus depend on no seed.
  RunDirectory clustering(Clustering kind, int64_t k, uint64_t seed) const;
  /// "seeds/s1", "seeds/larger-s1".
  RunDirectory seed(bool larger, uint64_t seed) const;
  std::filesystem::path cells() const { return root_ / "cells"; }
  RunDirectory cell(const std::string& name) const { return RunDirectory(cells() / name); }
  static std::filesystem::path result_json(const RunDirectory& cell) { return cell.root() / "result.json"; }
  static std::filesystem::path times_json(const RunDirectory& cell) { return cell.root() / "times.json"; }

 private:
  std::filesystem::path root_;
};

/// Waits until nobody else works on what lies in `directory`, and holds it. Throws Error when a signal asks to stop.
FileLock take_turn(const std::filesystem::path& directory);

/// A symbolic link at `link` to `target`, relative, so that the study's directory can be moved and copied. One that is
/// there already is left alone. Throws Error if something else is there.
void make_link(const std::filesystem::path& target, const std::filesystem::path& link);

/// Links of a run to the tokenizer and shards of another one, with their router and clusters.json.
void link_shards(const RunDirectory& from, const RunDirectory& to);

/// Puts a link to the router in the run's own shards in place of the copy that clustering makes, which may be large.
void link_own_router(const RunDirectory& run);
/// Removes that link if the shards are gone: a stage refuses to write where a link leads nowhere.
void unlink_lost_router(const RunDirectory& run);

/// Removes the models of a cell and its links, so that its results remain. What is not cbtm's stays, with a warning.
void remove_models(const RunDirectory& cell);

}  // namespace cbtm::study
