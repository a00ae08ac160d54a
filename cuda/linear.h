#pragma once

#include "bias_gradients.h"
#include "cbtm/device/linear_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Of a ReLU its mask, of a GELU its argument.
int64_t saved_activation_columns(Activation activation, DType dtype, int64_t columns);
/// Room for weights that are widened and a bias that is converted first.
int64_t scratch_bytes(const Context& context, const LinearForward& arguments);
int64_t scratch_bytes(const Context& context, const LinearBackward& arguments);
/// Through cuBLASLt, bias and ReLU in the epilogue; few rows go to decode_linear.
void linear_forward(Context& context, const LinearForward& arguments);
/// The bias gradient is held in `bias_gradients`.
void linear_backward(Context& context, const LinearBackward& arguments, BiasGradients& bias_gradients);

}  // namespace cbtm::cuda
