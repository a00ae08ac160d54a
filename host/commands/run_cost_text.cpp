#include "commands/run_cost_text.h"

#include <fmt/format.h>

#include <cmath>

#include "cbtm/base/progress.h"

namespace cbtm {

std::string run_cost_text(const RunCost& cost, const std::vector<int64_t>& devices) {
  std::string text = fmt::format("device time {}", format_duration(cost.device_seconds));
  if (cost.stages_without_devices > 0)
    text += fmt::format(", without {} stages whose records do not say it", cost.stages_without_devices);
  double flops = 0;
  for (const StageCost& stage : cost.stages)
    if (std::isfinite(stage.flops)) flops += stage.flops;
  if (flops > 0) text += fmt::format("; {:.3g} FLOPs of training by formula", flops);
  text += "\n";
  if (!cost.expert_seconds().empty()) {
    text += "from corpus to evaluated ensemble, experts side by side on";
    for (const int64_t count : devices)
      text += fmt::format("{} {}: {}", count == devices.front() ? "" : ",", count,
                          format_duration(cost.ensemble_seconds(count)));
    text += fmt::format(" devices (from the measured time of each); dense model {}\n",
                        format_duration(cost.dense_seconds()));
  }
  for (const UpdateRate& rate : update_rates(cost, devices))
    text += fmt::format("optimizer steps a second, {} on {}: {:.3g} ({})\n", rate.system, rate.devices,
                        rate.updates_per_second, rate.measured ? "measured" : "by formula");
  return text;
}

}  // namespace cbtm
