#pragma once

#include "cbtm/device/device.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Whether decode_linear takes these: few rows, types it has a kernel for.
bool decode_linear_applies(const LinearForward& arguments);
/// Linear layer for 1 to 8 rows, bound by reading the weights once.
void decode_linear(Context& context, const LinearForward& arguments);
/// int8 or int4 weights as a matrix [out, in] of floating type, for products of more rows.
void dequantise(Context& context, ConstTensorView weight, ConstTensorView scales, TensorView wide);

}  // namespace cbtm::cuda
