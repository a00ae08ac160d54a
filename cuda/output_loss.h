#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void output_loss(Context& context, const OutputLoss& arguments);

}  // namespace cbtm::cuda
