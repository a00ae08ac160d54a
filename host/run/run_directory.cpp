#include "cbtm/run/run_directory.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "cbtm/run/stage_summary.h"

namespace cbtm {

std::string RunDirectory::cluster_name(int64_t cluster) { return fmt::format("{:03}", cluster); }

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
  std::vector<fs::path> places = {run.tokenizer(), run.router(),  run.shards(),        run.seed(),
                                  run.baseline(),  run.mixture(), run.experts_router()};
  for (auto entry = fs::directory_iterator(run.experts(), error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.size() >= 3 && name.find_first_not_of("0123456789") == std::string::npos) places.push_back(entry->path());
  }
  for (const fs::path& place : places) {
    recover_directory(place);
    const auto holds = [&](const char* name) { return fs::exists(place / name, error); };
    const bool known = holds_model(place) || holds("vocab.json") || holds("tokenizer.json") || holds("router.json") ||
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
