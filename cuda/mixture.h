#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void mixture_log_probabilities(Context& context, const MixtureLogProbabilities& arguments);

}  // namespace cbtm::cuda
