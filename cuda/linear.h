#pragma once

#include "cbtm/device/linear_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Through cuBLASLt, bias and ReLU in the epilogue; few rows go to decode_linear.
void linear_forward(Context& context, const LinearForward& arguments);
void linear_backward(Context& context, const LinearBackward& arguments);

}  // namespace cbtm::cuda
