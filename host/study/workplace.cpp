#include "cbtm/study/workplace.h"

#include <fmt/format.h>

#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"

namespace cbtm::study {
namespace {

namespace fs = std::filesystem;

void remove_link(const fs::path& link) {
  std::error_code ignored;
  if (fs::is_symlink(fs::symlink_status(link, ignored))) fs::remove(link, ignored);
}

}  // namespace

RunDirectory Workplace::clustering(Clustering kind, int64_t k, uint64_t seed) const {
  const std::string of_seed = kind == Clustering::domains ? "" : fmt::format("-s{}", seed);
  return RunDirectory(root_ / "clusterings" / fmt::format("{}-k{}{}", clustering_name(kind), k, of_seed));
}

RunDirectory Workplace::seed(bool larger, uint64_t seed) const {
  return RunDirectory(root_ / "seeds" / fmt::format("{}s{}", larger ? "larger-" : "", seed));
}

FileLock take_turn(const fs::path& directory) {
  constexpr auto kPause = std::chrono::milliseconds(200);
  for (bool told = false;; told = true) {
    FileLock lock(directory / ".study.lock", FileLock::Wait::no);
    if (lock.held()) return lock;
    if (!told) say(fmt::format("{}: another process works on it; waiting for its end", directory.string()));
    stop_if_requested("the study");
    std::this_thread::sleep_for(kPause);
  }
}

void make_link(const fs::path& target, const fs::path& link) {
  std::error_code error;
  const fs::path relative =
      fs::absolute(target).lexically_normal().lexically_relative(fs::absolute(link).lexically_normal().parent_path());
  const fs::file_status status = fs::symlink_status(link, error);
  if (fs::is_symlink(status)) {
    if (fs::read_symlink(link, error) == relative) return;
    fail("{}: is a link to somewhere else than {}; move it away", link.string(), relative.string());
  }
  if (fs::exists(status))
    fail("{}: is there, but a link to {} is to be made in its place; move it away, or name another --out",
         link.string(), relative.string());
  make_directories(link.parent_path());
  fs::create_symlink(relative, link, error);
  if (error) fail("{}: the link cannot be made: {}", link.string(), error.message());
}

void link_shards(const RunDirectory& from, const RunDirectory& to) {
  make_link(from.tokenizer(), to.tokenizer());
  make_link(from.shards(), to.shards());
  make_link(from.shards_router(), to.router());
  make_link(from.shards_clusters_json(), to.clusters_json());
}

void link_own_router(const RunDirectory& run) {
  std::error_code error;
  if (!fs::is_symlink(fs::symlink_status(run.router(), error))) remove_output_directory(run.router());
  make_link(run.shards_router(), run.router());
}

void unlink_lost_router(const RunDirectory& run) {
  std::error_code error;
  if (!fs::exists(run.router(), error)) remove_link(run.router());
}

void remove_models(const RunDirectory& cell) {
  std::vector<fs::path> models = {cell.baseline(), cell.mixture()};
  std::error_code error;
  for (auto entry = fs::directory_iterator(cell.experts(), error); !error && entry != fs::directory_iterator();
       entry.increment(error))
    if (!entry->is_symlink() && is_output_directory(entry->path())) models.push_back(entry->path());
  for (const fs::path& model : models) remove_output_directory(model);
  remove_abandoned_outputs(cell.root());
  remove_abandoned_outputs(cell.experts());
  for (const fs::path& link :
       {cell.experts_router(), cell.tokenizer(), cell.shards(), cell.router(), cell.clusters_json(), cell.seed()})
    remove_link(link);
  fs::remove(cell.experts() / ".router.lock", error);
  fs::remove(cell.experts(), error);  // if nothing of somebody else's is in it
}

}  // namespace cbtm::study
