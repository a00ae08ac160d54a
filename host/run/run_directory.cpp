#include "cbtm/run/run_directory.h"

#include <fmt/chrono.h>

#include <ctime>

#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"

namespace cbtm {

std::string RunDirectory::cluster_name(int64_t cluster) { return fmt::format("{:03}", cluster); }

namespace {

Json read_run(const RunDirectory& run) {
  if (!std::filesystem::exists(run.run_json())) return {{"format", 1}, {"stages", Json::object()}};
  Json json = read_json_file(run.run_json());
  if (!json.is_object() || !json.value("stages", Json()).is_object())
    fail("{}: not the run.json of a run", run.run_json().string());
  return json;
}

void compare(const Json& before, const Json& now, const char* missing, std::string& difference) {
  const auto add = [&](const std::string& text) { difference += (difference.empty() ? "" : "; ") + text; };
  for (const auto& [name, value] : now.items()) {
    if (!before.contains(name)) {
      add(fmt::format("{} is new", name));
    } else if (before[name] != value) {
      add(missing[0] == 's' ? fmt::format("{} was {}, is {}", name, before[name].dump(), value.dump())
                            : fmt::format("{} has changed", name));
    }
  }
  for (const auto& [name, value] : before.items())
    if (!now.contains(name)) add(fmt::format("{} is gone", name));
}

}  // namespace

StageState stage_state(const RunDirectory& run, const StageRecord& wanted, std::string& difference) {
  difference.clear();
  const Json record = find_stage(run, wanted.name);
  if (record.is_null()) return StageState::missing;
  compare(record.value("settings", Json::object()), wanted.settings, "setting", difference);
  compare(record.value("inputs", Json::object()), wanted.inputs, "input", difference);
  return difference.empty() ? StageState::current : StageState::changed;
}

void record_stage(const RunDirectory& run, const StageRecord& record) {
  const FileLock lock(run.root() / ".run.lock");
  Json json = read_run(run);
  json["version"] = CBTM_VERSION;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  json["stages"][record.name] = {{"settings", record.settings},
                                 {"inputs", record.inputs},
                                 {"command", record.command},
                                 {"seconds", record.seconds},
                                 {"summary", record.summary},
                                 {"version", CBTM_VERSION},
                                 {"finished", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", utc)}};
  write_json_file(run.run_json(), json);
}

Json find_stage(const RunDirectory& run, const std::string& name) {
  if (!std::filesystem::exists(run.run_json())) return nullptr;
  const Json json = read_run(run);
  const auto found = json["stages"].find(name);
  return found == json["stages"].end() ? Json(nullptr) : *found;
}

}  // namespace cbtm
