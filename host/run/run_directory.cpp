#include "cbtm/run/run_directory.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <ctime>

#include "cbtm/base/atomic_output.h"
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

std::string stage_difference(const Json& settings_before, const Json& inputs_before, const StageRecord& wanted) {
  std::string difference;
  compare(settings_before, wanted.settings, "setting", difference);
  compare(inputs_before, wanted.inputs, "input", difference);
  return difference;
}

StageState stage_state(const RunDirectory& run, const StageRecord& wanted, std::string& difference) {
  difference.clear();
  const Json record = find_stage(run, wanted.name);
  if (record.is_null()) return StageState::missing;
  if (!wanted.result.is_null() && (!record.contains("result") || record["result"] != wanted.result))
    return StageState::missing;
  const auto object = [&](const char* key) {
    return record.contains(key) && record[key].is_object() ? record[key] : Json::object();
  };
  difference = stage_difference(object("settings"), object("inputs"), wanted);
  return difference.empty() ? StageState::current : StageState::changed;
}

void record_stage(const RunDirectory& run, const StageRecord& record) {
  const FileLock lock(run.root() / ".run.lock");
  Json json = read_run(run);
  json["version"] = CBTM_VERSION;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  json["stages"][record.name] = {
      {"settings", record.settings}, {"inputs", record.inputs},
      {"command", record.command},   {"seconds", record.seconds},
      {"summary", record.summary},   {"version", CBTM_VERSION},
      {"result", record.result},     {"finished", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", utc)}};
  write_json_file(run.run_json(), json);
}

Json find_stage(const RunDirectory& run, const std::string& name) {
  if (!std::filesystem::exists(run.run_json())) return nullptr;
  const Json json = read_run(run);
  const auto found = json["stages"].find(name);
  if (found == json["stages"].end()) return nullptr;
  if (!found->is_object())
    fail("{}: the record of '{}' is damaged; remove it from the file, or remove the file: what was made is found again",
         run.run_json().string(), name);
  return *found;
}

void prepare_run_directory(const RunDirectory& run) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(run.root(), error);
  if (fs::exists(status) && !fs::is_directory(status))
    fail("{}: is a file, but a run is a directory; name another", run.root().string());
  make_directories(run.root());
  for (const fs::path& directory : {run.root(), run.experts(), run.evaluation(), run.snapshots()})
    remove_abandoned_outputs(directory);
  for (const fs::path& parent : {run.root() / "training", run.snapshots()})
    for (auto entry = fs::directory_iterator(parent, error); !error && entry != fs::directory_iterator();
         entry.increment(error)) {
      remove_abandoned_outputs(entry->path());
      remove_abandoned_outputs(entry->path() / "experts");
    }
  // What cbtm made is looked at again when it is to be replaced; a model that somebody put there may be used as it is.
  std::vector<fs::path> places = {run.tokenizer(), run.router(),   run.shards(),
                                  run.seed(),      run.baseline(), run.experts_router()};
  for (auto entry = fs::directory_iterator(run.experts(), error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.size() >= 3 && name.find_first_not_of("0123456789") == std::string::npos) places.push_back(entry->path());
  }
  for (const fs::path& place : places) {
    recover_directory(place);
    const auto holds = [&](const char* name) { return fs::exists(place / name, error); };
    const bool known = holds("config.json") || holds("vocab.json") || holds("tokenizer.json") || holds("router.json") ||
                       holds("clusters.json");
    if (!is_output_directory(place) && !known) check_replaceable(place);
  }
  for (const fs::path& file : {run.run_json(), run.clusters_json()})
    if (fs::exists(file)) check_writable(file, OutputKind::json);
  if (fs::exists(run.report())) check_writable(run.report(), OutputKind::html);
  if (fs::exists(run.clusters_json()) && !fs::exists(run.shards_clusters_json()) &&
      !read_json_file(run.clusters_json()).contains("router_hash"))
    fail("{}: another file stands there, not one of cbtm; it is left as it is: move it away, or name another directory",
         run.clusters_json().string());
  if (fs::exists(run.run_json())) find_stage(run, "tokenizer");  // a foreign or damaged run.json is said now
  if (::access(run.root().c_str(), W_OK) != 0) fail("{}: cannot be written: {}", run.root().string(), errno_text());
}

}  // namespace cbtm
