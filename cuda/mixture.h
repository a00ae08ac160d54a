#pragma once

#include "cbtm/device/output_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Two launches; of a product four.
void mixture_log_probabilities(Context& context, const MixtureLogProbabilities& arguments);
/// Three launches, no sort; of a product five.
void sample_mixture(Context& context, const SampleMixture& arguments);

}  // namespace cbtm::cuda
