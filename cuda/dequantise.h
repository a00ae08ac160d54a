#pragma once

#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// int8 or int4 weights as a matrix [out, in] of floating type, for products of more rows than decode_linear takes.
void dequantise(Context& context, ConstTensorView weight, ConstTensorView scales, TensorView wide);

}  // namespace cbtm::cuda
