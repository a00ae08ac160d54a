#include "pipeline/snapshots.h"

#include <algorithm>
#include <system_error>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json_difference.h"
#include "cbtm/model/checkpoint.h"

namespace cbtm {

std::optional<ExpertSet> snapshot_experts(Device& device, const RunDirectory& run, const RunDirectory& snapshot,
                                          const ExpertCard& baseline, std::string& problem) {
  try {
    const std::optional<ExpertCard> dense = read_expert_card(snapshot.baseline());
    if (!dense || dense->snapshot_step < 0) {
      problem = "its dense model is not there";
      return std::nullopt;
    }
    if (!json_difference(dense->settings, baseline.settings, ShownValues::none).empty() ||
        !json_difference(dense->inputs, baseline.inputs, ShownValues::none).empty()) {
      problem = "it is of another training than the dense baseline";
      return std::nullopt;
    }
    ModelCheckpoint::open(snapshot.baseline());
    ExpertSet experts = ExpertSet::open({.experts = snapshot.experts(), .router = run.router(), .device = &device});
    if (static_cast<int64_t>(experts.experts().size()) != experts.router().clusters()) {
      problem = "not all experts are there";
      return std::nullopt;
    }
    return experts;
  } catch (const Error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

std::vector<std::filesystem::path> snapshot_directories(const RunDirectory& run) {
  std::vector<std::filesystem::path> directories;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(run.snapshots(), error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (const std::string name = entry->path().filename().string();
        name.find_first_not_of("0123456789") == std::string::npos)
      directories.push_back(entry->path());
  std::sort(directories.begin(), directories.end());
  return directories;
}

void remove_snapshots(const RunDirectory& run) {
  std::error_code error;
  for (const std::filesystem::path& directory : snapshot_directories(run)) {
    const RunDirectory snapshot(directory);
    std::vector<std::filesystem::path> models = {snapshot.baseline()};
    for (auto entry = std::filesystem::directory_iterator(snapshot.experts(), error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
      models.push_back(entry->path());
    for (const std::filesystem::path& model : models) remove_output_directory(model);
    remove_abandoned_outputs(directory);
    remove_abandoned_outputs(snapshot.experts());
    std::filesystem::remove(snapshot.experts(), error);
    std::filesystem::remove(directory, error);
  }
  std::filesystem::remove(run.snapshots(), error);
}

}  // namespace cbtm
