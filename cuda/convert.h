#pragma once

#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Same shape, another floating type; rounds to nearest, ties to even.
void convert(Context& context, TensorView destination, ConstTensorView source);

}  // namespace cbtm::cuda
