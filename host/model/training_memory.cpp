#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/model/training_model.h"
#include "model/activations.h"
#include "model/training_parameters.h"

namespace cbtm {

std::string TrainingMemory::description() const {
  const char* kept = recompute == Recompute::nothing ? "all kept"
                     : recompute == Recompute::ffn   ? "feed-forward outputs computed again in the backward pass"
                                                     : "layers computed again in the backward pass";
  return fmt::format("memory: weights {}, gradients {}, moments {}, activations {} ({}), workspace {}; {} in all",
                     format_bytes(weights), format_bytes(gradients), format_bytes(moments), format_bytes(activations),
                     kept, format_bytes(workspace), format_bytes(total()));
}

TrainingMemory plan_training_memory(std::span<Device* const> devices, const OptConfig& config, int64_t rows,
                                    int64_t budget_bytes, DType dtype) {
  int64_t free_bytes = std::numeric_limits<int64_t>::max();
  for (const Device* device : devices) free_bytes = std::min(free_bytes, device->free_bytes());
  const int64_t bytes_max = budget_bytes > 0 ? std::min(budget_bytes, free_bytes) : free_bytes;
  const Device& device = *devices.front();
  const ParameterMemory parameters = parameter_memory(config, dtype, static_cast<int64_t>(devices.size()));
  TrainingMemory plan{.weights = parameters.weights, .gradients = parameters.gradients, .moments = parameters.moments};
  plan.workspace = device.workspace_bytes(rows, config.hidden_size, config.ffn_dim, config.vocab_size);
  for (const Recompute recompute : {Recompute::nothing, Recompute::ffn, Recompute::layers}) {
    plan.recompute = recompute;
    plan.activations = activation_bytes(device, config, rows, recompute, dtype);
    if (plan.total() <= bytes_max) return plan;
  }
  fail(
      "training needs {} at least, but only {} may be used; lower --micro-batch or --sequence, raise --memory, or take "
      "a smaller model",
      format_bytes(plan.total()), format_bytes(bytes_max));
}

}  // namespace cbtm
