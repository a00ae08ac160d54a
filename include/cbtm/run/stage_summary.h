#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// The record of a finished stage. It is kept in run.json under "stages" (docs/formats.md, 'run.json').
struct StageSummary {
  std::string name;     ///< "tokenizer", "cluster", "seed", "expert/003", "baseline", "moe", "evaluate"
  Json settings;        ///< everything that changes the result; an object
  Json inputs;          ///< name -> content hash or fingerprint of each input; an object
  std::string command;  ///< as typed
  double seconds = 0;
  Json numbers = Json::object();  ///< for the report; "summary" in the file
  Json result;           ///< content hash of the stage's output, or null; the record is valid for this output only
  std::string version;   ///< of the program that made it; "" if the record does not say
  std::string finished;  ///< time in UTC, "2026-11-25T01:40:11Z"; "" if the record does not say
};

/// All records of a run.json in the order of their names, and the version of the program that wrote the file last.
struct RunSummary {
  std::string version;
  std::vector<StageSummary> stages;
};

/// Reads the JSON of a run.json. Throws Error that names `file` and the key if a value has the wrong type.
RunSummary parse_run_summary(const Json& json, const std::string& file);

enum class StageState : uint8_t { missing, current, changed };

/// Compares `wanted` with the record in run.json. If they differ, `difference` names the settings or inputs in words
/// ("k was 8, is 4; the corpus has changed").
///
/// If `wanted.result` is not null it is the hash of the output that exists now. A record of another result then counts
/// as missing: a process made the stage again and died before it could record it.
StageState stage_state(const RunDirectory& run, const StageSummary& wanted, std::string& difference);
/// The same words for two sets of settings and inputs. "" if they are equal.
std::string stage_difference(const Json& settings_before, const Json& inputs_before, const StageSummary& wanted);

/// Adds or replaces the record, with the version and the time. run.json is locked meanwhile, since several experts may
/// finish at the same time.
void record_stage(const RunDirectory& run, const StageSummary& record);
/// The record of a finished stage, if there is one.
std::optional<StageSummary> find_stage(const RunDirectory& run, const std::string& name);
/// The record as it stands in run.json.
Json stage_json(const StageSummary& record);

}  // namespace cbtm
