#include <fmt/ranges.h>

#include <atomic>
#include <thread>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/device_error.h"
#include "cbtm/pipeline/training_stages.h"
#include "cbtm/run/cluster_manifest.h"

namespace cbtm {

void train_run_experts(std::span<Device* const> devices, const RunDirectory& run, const TrainingSettings& settings,
                       bool redo, const std::string& command) {
  const auto count = read_clusters(run).clusters;
  if (devices.size() == 1) {
    for (int64_t cluster = 0; cluster < count; ++cluster)
      train_run_branch(devices, run, cluster, settings, redo, command);
    return;
  }
  std::atomic<int64_t> next = 0;
  std::vector<std::atomic<bool>> done(static_cast<size_t>(count));
  const auto train_some = [&](std::span<Device* const> device) {
    for (int64_t cluster = next++; cluster < count; cluster = next++) {
      try {
        device.front()->bind_thread();
        train_run_branch(device, run, cluster, settings, redo, command);
        done[static_cast<size_t>(cluster)] = true;
      } catch (const std::exception& error) {
        warn(error.what());
        if (dynamic_cast<const DeviceError*>(&error) != nullptr) return;  // it may be of no more use
      }
      if (stop_requested() != 0) return;
    }
  };
  std::vector<std::thread> threads;
  for (size_t number = 0; number < devices.size(); ++number)
    threads.emplace_back(train_some, devices.subspan(number, 1));
  for (std::thread& thread : threads) thread.join();
  devices.front()->bind_thread();
  std::vector<std::string> missing;
  for (int64_t cluster = 0; cluster < count; ++cluster)
    if (!done[static_cast<size_t>(cluster)]) missing.push_back(RunDirectory::cluster_name(cluster));
  if (missing.empty()) return;
  const std::string what =
      fmt::format("not trained to the end: expert{} {}; the same command goes on with {}",
                  missing.size() == 1 ? "" : "s", fmt::join(missing, ", "), missing.size() == 1 ? "it" : "them");
  if (stop_requested() != 0)
    throw Error(fmt::format("stopped by signal {}; {}", stop_requested(), what), kExitInterrupted);
  fail("{} (the reasons stand above)", what);
}

}  // namespace cbtm
