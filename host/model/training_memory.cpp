#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/model/training_model.h"
#include "model/network/activations.h"
#include "model/training_parameters.h"
#include "model/training_scratch.h"

namespace cbtm {

std::string TrainingMemory::table() const {
  const char* kept = keep == Keep::everything             ? "all kept"
                     : keep == Keep::all_but_feed_forward ? "feed-forward outputs computed again in the backward pass"
                                                          : "layers computed again in the backward pass";
  std::string text;
  const auto row = [&](const char* name, int64_t bytes, const char* note) {
    if (bytes > 0)
      text += fmt::format("  {:<12}{:>10}{}{}\n", name, format_bytes(bytes), *note != 0 ? "   " : "", note);
  };
  row("weights", weights, "");
  row("gradients", gradients, "");
  row("moments", moments, "of AdamW, two");
  row("activations", activations, kept);
  row("workspace", workspace, "of the operators");
  row("program", host, "with the order of the documents, and what saving takes");
  text += fmt::format("  {:<12}{:>10}", "in all", format_bytes(total()));
  return text;
}

namespace {

/// What may be used of the fullest device.
int64_t usable_bytes(std::span<Device* const> devices, const TrainingShape& shape, int64_t budget_bytes) {
  int64_t free_bytes = std::numeric_limits<int64_t>::max() - shape.host_bytes_present;
  for (const Device* device : devices) free_bytes = std::min(free_bytes, device->free_bytes());
  free_bytes += shape.host_bytes_present;
  // The plan is what a process takes to within 5 percent; where the host's memory is the device's, that much stays
  // free.
  constexpr double kPlanAccuracy = 0.05;
  if (shape.host_bytes > 0) free_bytes = static_cast<int64_t>(static_cast<double>(free_bytes) / (1 + kPlanAccuracy));
  return budget_bytes > 0 ? std::min(budget_bytes, free_bytes) : free_bytes;
}

TrainingMemory memory_with(std::span<Device* const> devices, const ModelSpec& spec, const TrainingShape& shape,
                           Keep keep) {
  const ModelOperators& operators = devices.front()->model_operators();
  const ParameterMemory parameters = parameter_memory(spec, shape.dtype, static_cast<int64_t>(devices.size()));
  return {.keep = keep,
          .weights = parameters.weights,
          .gradients = parameters.gradients,
          .moments = parameters.moments,
          .activations = activation_bytes(operators, spec, shape.rows, keep, shape.dtype),
          .workspace = training_scratch(operators, spec, shape).total(),
          .host = shape.host_bytes};
}

}  // namespace

std::optional<TrainingMemory> training_memory(std::span<Device* const> devices, const ModelSpec& spec,
                                              const TrainingShape& shape, int64_t budget_bytes, Keep keep) {
  const TrainingMemory plan = memory_with(devices, spec, shape, keep);
  if (plan.total() > usable_bytes(devices, shape, budget_bytes)) return std::nullopt;
  return plan;
}

TrainingMemory plan_training_memory(std::span<Device* const> devices, const ModelSpec& spec, const TrainingShape& shape,
                                    int64_t budget_bytes) {
  for (const Keep keep : {Keep::everything, Keep::all_but_feed_forward, Keep::block_inputs})
    if (const auto plan = training_memory(devices, spec, shape, budget_bytes, keep)) return *plan;
  fail(
      "training needs {} at least, but only {} may be used; lower --micro-batch or --sequence, raise --memory, or take "
      "a smaller model",
      format_bytes(memory_with(devices, spec, shape, Keep::block_inputs).total()),
      format_bytes(usable_bytes(devices, shape, budget_bytes)));
}

}  // namespace cbtm
