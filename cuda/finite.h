#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void require_finite(Context& context, ConstTensorView values, TensorView result);

}  // namespace cbtm::cuda
