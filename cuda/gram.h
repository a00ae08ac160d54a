#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

/// product (float64) = xᵀ x; pieces of rows by matrix products in float32, the pieces summed in float64.
void gram(Context& context, ConstTensorView x, TensorView product);

}  // namespace cbtm::cuda
