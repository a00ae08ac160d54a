#pragma once

#include <cstdint>

#include "cbtm/device/tensor.h"
#include "cbtm/model/spec.h"
#include "cbtm/model/weight_format.h"

namespace cbtm {

/// A system that generates or scores text: one model, dense or a mixture of experts, or an ensemble of them.
struct InferenceSystem {
  ModelSpec model;             ///< each expert's
  int64_t experts = 1;         ///< k
  int64_t active_experts = 1;  ///< that are mixed for a token
  /// Dimensions of the embedding that a tf-idf router compares with its centres; 0: no router.
  int64_t router_dimensions = 0;
};

/// What one token costs (docs/accounting.md, 'Inference').
struct InferenceCost {
  double flops = 0;                 ///< of all active experts, without the router
  double router_flops = 0;          ///< at most: as if each token ended a word
  double latency_flops = 0;         ///< that follow one another if each active expert has a device of its own
  int64_t parameters = 0;           ///< of all experts
  int64_t active_parameters = 0;    ///< that take part in a token
  int64_t weight_bytes = 0;         ///< of all experts in memory
  int64_t active_weight_bytes = 0;  ///< read for a token that is generated alone
  int64_t key_value_bytes = 0;      ///< of a cached token, in all active experts
};

/// For a token that attends to `context` tokens, with weights kept in `format` and keys and values in `cache_type`.
/// Asserts 1 <= active experts <= experts.
InferenceCost inference_cost(const InferenceSystem& system, double context, WeightFormat format, DType cache_type);

}  // namespace cbtm
