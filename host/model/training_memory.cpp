#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/training_model.h"
#include "model/activations.h"
#include "model/training_parameters.h"
#include "model/training_scratch.h"

namespace cbtm {

std::string TrainingMemory::description() const {
  const char* kept = recompute == Recompute::nothing ? "all kept"
                     : recompute == Recompute::ffn   ? "feed-forward outputs computed again in the backward pass"
                                                     : "layers computed again in the backward pass";
  return fmt::format("memory: weights {}, gradients {}, moments {}, activations {} ({}), workspace {}{}; {} in all",
                     format_bytes(weights), format_bytes(gradients), format_bytes(moments), format_bytes(activations),
                     kept, format_bytes(workspace), host > 0 ? ", program " + format_bytes(host) : "",
                     format_bytes(total()));
}

TrainingMemory plan_training_memory(std::span<Device* const> devices, const OptConfig& config,
                                    const TrainingShape& shape, int64_t budget_bytes) {
  int64_t free_bytes = std::numeric_limits<int64_t>::max() - shape.host_bytes_present;
  for (const Device* device : devices) free_bytes = std::min(free_bytes, device->free_bytes());
  free_bytes += shape.host_bytes_present;
  // The plan is what a process takes to within 5 percent; where the host's memory is the device's, that much stays
  // free.
  constexpr double kPlanAccuracy = 0.05;
  if (shape.host_bytes > 0) free_bytes = static_cast<int64_t>(static_cast<double>(free_bytes) / (1 + kPlanAccuracy));
  const int64_t bytes_max = budget_bytes > 0 ? std::min(budget_bytes, free_bytes) : free_bytes;
  const ModelOperators& operators = devices.front()->model_operators();
  const ParameterMemory parameters = parameter_memory(config, shape.dtype, static_cast<int64_t>(devices.size()));
  TrainingMemory plan{.weights = parameters.weights,
                      .gradients = parameters.gradients,
                      .moments = parameters.moments,
                      .workspace = training_scratch(operators, config, shape).total(),
                      .host = shape.host_bytes};
  for (const Recompute recompute : {Recompute::nothing, Recompute::ffn, Recompute::layers}) {
    plan.recompute = recompute;
    plan.activations = activation_bytes(operators, config, shape.rows, recompute, shape.dtype);
    if (plan.total() <= bytes_max) return plan;
  }
  fail(
      "training needs {} at least, but only {} may be used; lower --micro-batch or --sequence, raise --memory, or take "
      "a smaller model",
      format_bytes(plan.total()), format_bytes(bytes_max));
}

}  // namespace cbtm
