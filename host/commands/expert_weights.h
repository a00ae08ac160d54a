#pragma once

#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/ensemble/expert_set.h"

namespace cbtm {

/// What --expert-weights says: one weight per cluster, of sum 1 (docs/method.md, 'Parameter average'). Throws a usage
/// Error, or Error naming the file of a prior.
std::vector<double> expert_weights(const std::string& text, const ExpertSet& experts);

/// The experts with a weight: a list of cluster, name of the directory, weight and hash of the model's weights.
Json averaged_experts_json(const ExpertSet& experts, const std::vector<double>& weights);

}  // namespace cbtm
