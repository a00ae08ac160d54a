#include "cbtm/run/stage_summary.h"

#include <fmt/chrono.h>

#include <ctime>

#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/json_difference.h"
#include "cbtm/base/made_json.h"

namespace cbtm {
namespace {

constexpr const char* kRemedy = "remove the record from the file, or remove the file: what was made is found again";

Json read_run(const RunDirectory& run) {
  if (!std::filesystem::exists(run.run_json())) return {{"format", 1}, {"stages", Json::object()}};
  Json json = read_made_json(run.run_json(), "remove the file: what was made is found again");
  if (!json.is_object() || !json.value("stages", Json()).is_object())
    fail("{}: not the run.json of a run", run.run_json().string());
  return json;
}

StageSummary parse_stage(const std::string& name, const JsonReader& read) {
  constexpr double kSecondsMax = 1e12;
  const auto object = [&](const char* key) { return read.has(key) ? read.object(key).json() : Json::object(); };
  StageSummary stage;
  stage.name = name;
  stage.settings = object("settings");
  stage.inputs = object("inputs");
  stage.command = read.text_or("command", "");
  stage.seconds = read.number_or("seconds", 0.0, 0.0, kSecondsMax);
  stage.numbers = object("summary");
  stage.result = read.has("result") ? read.at("result").json() : Json();
  stage.version = read.text_or("version", "");
  stage.finished = read.text_or("finished", "");
  return stage;
}

}  // namespace

RunSummary parse_run_summary(const Json& json, const std::string& file) {
  const JsonReader read(json, file, kRemedy);
  RunSummary run;
  run.version = read.text_or("version", "");
  if (!read.has("stages")) return run;
  const JsonReader stages = read.object("stages");
  for (const std::string& name : stages.keys()) run.stages.push_back(parse_stage(name, stages.object(name)));
  return run;
}

std::string stage_difference(const Json& settings_before, const Json& inputs_before, const StageSummary& wanted) {
  const std::string settings = json_difference(settings_before, wanted.settings, ShownValues::both);
  const std::string inputs = json_difference(inputs_before, wanted.inputs, ShownValues::none);
  return settings + (settings.empty() || inputs.empty() ? "" : "; ") + inputs;
}

StageState stage_state(const RunDirectory& run, const StageSummary& wanted, std::string& difference) {
  difference.clear();
  const std::optional<StageSummary> record = find_stage(run, wanted.name);
  if (!record || (!wanted.result.is_null() && record->result != wanted.result)) return StageState::missing;
  difference = stage_difference(record->settings, record->inputs, wanted);
  return difference.empty() ? StageState::current : StageState::changed;
}

Json stage_json(const StageSummary& record) {
  return {{"settings", record.settings}, {"inputs", record.inputs},    {"command", record.command},
          {"seconds", record.seconds},   {"summary", record.numbers},  {"version", record.version},
          {"result", record.result},     {"finished", record.finished}};
}

void record_stage(const RunDirectory& run, const StageSummary& record) {
  const FileLock lock(run.root() / ".run.lock");
  Json json = read_run(run);
  json["version"] = CBTM_VERSION;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  StageSummary finished = record;
  finished.version = CBTM_VERSION;
  finished.finished = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", utc);
  json["stages"][record.name] = stage_json(finished);
  write_json_file(run.run_json(), json);
}

std::optional<StageSummary> find_stage(const RunDirectory& run, const std::string& name) {
  if (!std::filesystem::exists(run.run_json())) return std::nullopt;
  const Json json = read_run(run);
  const auto found = json["stages"].find(name);
  if (found == json["stages"].end()) return std::nullopt;
  if (!found->is_object())
    fail("{}: the record of '{}' is damaged; remove it from the file, or remove the file: what was made is found again",
         run.run_json().string(), name);
  return parse_stage(name, JsonReader(json, run.run_json().string(), kRemedy).object("stages").object(name));
}

}  // namespace cbtm
