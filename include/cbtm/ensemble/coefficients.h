#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cbtm/ensemble/expert_set.h"

namespace cbtm {

/// The cluster of an expert that is present, by its name, "003" or "expert-003"; -1 if there is none.
int64_t find_expert(const ExpertSet& experts, const std::string& name);

/// SequenceMixing::coefficients of the experts that are named. Throws Error: an expert that is not present, one that is
/// named twice, a number that is not finite or larger than 100 in size, nothing but zeros.
std::vector<double> coefficients_of(const ExpertSet& experts, const std::vector<std::pair<std::string, double>>& named);

/// The experts' shares in a token that was mixed with these weights or coefficients: by their size, of 1 together.
std::vector<double> expert_shares(std::vector<double> weights);

}  // namespace cbtm
