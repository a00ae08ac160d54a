#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/run/stage_summary.h"

namespace cbtm {

/// What lies where a stage puts its result.
struct FoundResult {
  /// Content hash of what is there. The record in run.json counts for this result only.
  Json hash;
  /// The record that the result itself holds, if results of this kind hold one. It appeared together with the result,
  /// so it is believed where run.json is older, newer or gone. Without one, the record in run.json decides.
  std::optional<StageSummary> own;
  std::string own_file;  ///< the file that holds it, for people: "its expert.json"
  /// Why the result cannot be used, in words ("it is damaged"), or "".
  std::string problem;
};

/// What making a stage gave, for its record.
struct StageResult {
  Json hash;                      ///< of the output, or null
  Json numbers = Json::object();  ///< numbers for the report
  std::optional<double> seconds;  ///< if the time of making it is not what counts
};

/// One stage of a run: what it is made from, where its result lies, and how it is made. A value; run_stage does the
/// rest.
struct Stage {
  std::string name;              ///< "tokenizer", "cluster", "seed", "expert/003", "baseline", "evaluate"
  Json settings;                 ///< everything that changes the result
  Json inputs;                   ///< name -> content hash or fingerprint of each input
  std::string command;           ///< as typed
  std::filesystem::path result;  ///< named in messages
  std::vector<std::filesystem::path> directories;   ///< that it replaces (check_replaceable)
  std::vector<std::filesystem::path> result_files;  ///< JSON files that it replaces (check_writable)
  /// Says what lies in place of the result; nothing if nothing is there. May throw Error for what is there but cannot
  /// be judged.
  std::function<std::optional<FoundResult>()> find;
  /// Makes the result, whole or not at all.
  std::function<StageResult()> make;
  // What is said of a result that was made from something else: "CHANGED (k was 8, is 4); REMEDY".
  std::string changed;
  std::string remedy;
};

/// Makes the stage if it is due, and records it in run.json. Returns whether it was made.
///
/// It is due if its result is not there, or was made from other settings or inputs and `redo` is given. Without `redo`
/// the latter is an Error that names what differs. A stage that is done is said to be; if run.json lacks its record, it
/// is made again from the result's own.
bool run_stage(const RunDirectory& run, const Stage& stage, bool redo);

}  // namespace cbtm
