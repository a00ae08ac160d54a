#include "cbtm/accounting/inference_cost.h"

#include <cmath>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/error.h"
#include "cbtm/model/inference_memory.h"

namespace cbtm {
namespace {

/// A word adds its weighted row to the sum (2 d), the sum is brought to unit length (3 d), and for each centre d
/// differences are squared and added (3 d).
double router_flops(int64_t dimensions, int64_t clusters) {
  return static_cast<double>(dimensions) * (5 + 3 * static_cast<double>(clusters));
}

}  // namespace

InferenceCost inference_cost(const InferenceSystem& system, double context, WeightFormat format, DType cache_type) {
  CBTM_ASSERT(system.active_experts >= 1 && system.active_experts <= system.experts, "an expert computes each token");
  const double one = forward_flops(system.model, context);
  const int64_t weights = inference_weight_bytes(system.model, format);
  const int64_t active = system.active_experts;
  // Of a mixture of experts the matrices of the chosen ones are read, about in proportion to the parameters.
  const double read = static_cast<double>(cbtm::active_parameters(system.model)) /
                      static_cast<double>(total_parameters(system.model)) * static_cast<double>(weights);
  return {.flops = static_cast<double>(active) * one,
          .router_flops = system.router_dimensions > 0 ? router_flops(system.router_dimensions, system.experts) : 0,
          .latency_flops = one,
          .parameters = system.experts * total_parameters(system.model),
          .active_parameters = active * cbtm::active_parameters(system.model),
          .weight_bytes = system.experts * weights,
          .active_weight_bytes = active * std::llround(read),
          .key_value_bytes = active * cbtm::key_value_bytes(system.model, cache_type)};
}

}  // namespace cbtm
