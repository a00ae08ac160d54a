#pragma once

#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void require_finite(Context& context, ConstTensorView values, TensorView result);

}  // namespace cbtm::cuda
