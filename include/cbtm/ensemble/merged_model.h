#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/inference.h"
#include "cbtm/route/routing_method.h"

namespace cbtm {

/// The experts' weights for what follows a prompt of at least one token: [clusters], their sum is 1. A method that uses
/// probabilities has every expert that it wants read the prompt, with the pool that `pool` then makes.
std::vector<double> prompt_weights(const ExpertSet& experts, const std::shared_ptr<const RoutingMethod>& method,
                                   std::span<const int32_t> prompt,
                                   const std::function<std::shared_ptr<ExpertPool>()>& pool);

/// One model of the experts' averaged parameters, Σ weights[j] θ_j (average_parameters), in this format; of one expert
/// alone, that expert. The sums are made of the stored weights, and rounded or quantised once, at the end. Host memory:
/// 16 bytes per parameter while it is made, and a file of 4 bytes per parameter in the system's directory for temporary
/// files, which is gone when this returns. Throws Error if the experts have different shapes, or the file cannot be
/// written.
std::unique_ptr<InferenceModel> load_merged(Device& device, const ExpertSet& experts,
                                            const std::vector<double>& weights, WeightFormat format);

}  // namespace cbtm
