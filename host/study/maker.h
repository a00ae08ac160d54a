#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "cbtm/corpus/corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/config.h"
#include "cbtm/study/workplace.h"

namespace cbtm::study {

/// What a study is made with, beside its configuration.
struct Means {
  std::span<Device* const> devices;  ///< trainings use all of them
  CorpusOptions corpus;              ///< as the stages read it (corpus_of_run)
  std::string corpus_hash;           ///< its fingerprint
  int64_t memory_bytes = 0;          ///< of the device; 0: what is free
  bool redo = false;                 ///< make again what was made with other settings
  std::string command;               ///< as typed
};

/// The result of a cell, if it is there. Throws Error if it was made with another recipe, unless `redo`: then it counts
/// as missing.
std::optional<CellResult> find_result(const Workplace& place, const Cell& cell, const Json& recipe, bool redo);

/// Makes the stages that cells share and the cells. Each is made once: where several processes share a directory, one
/// makes it and the others wait. Everything resumes where it was stopped.
class Maker {
 public:
  Maker(const Workplace& place, const Config& config, const Means& means)
      : place_(place), config_(config), means_(means) {}

  /// Tokenizer, and the whole corpus as one shard in the embedding that all clusterings share.
  void make_corpus();
  /// The shards of an ensemble's clustering, which nobody removes while the lock is held.
  FileLock make_clustering(const System& system, uint64_t seed);
  /// The model that all cells of this shape and random seed branch from.
  void make_seed(bool larger, uint64_t seed);
  /// Trains and evaluates a cell, after what it needs of the above, and writes its result.json and times.json.
  void make_cell(const Cell& cell);

 private:
  bool is_made(const RunDirectory& run) const { return made_.contains(run.root().string()); }
  void note_made(const RunDirectory& run) { made_.insert(run.root().string()); }
  RunDirectory shards_of(const Cell& cell) const;
  void train(const Cell& cell, const RunDirectory& run) const;
  CellResult describe(const Cell& cell, const RunDirectory& run, CellTimes& times) const;

  const Workplace& place_;
  const Config& config_;
  const Means& means_;
  std::set<std::string> made_;  ///< runs that this process has made or found done
};

}  // namespace cbtm::study
