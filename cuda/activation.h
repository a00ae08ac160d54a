#pragma once

#include "cbtm/device/activation.h"
#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

// What a linear layer needs where the epilogue of the matrix product cannot do it.

/// output = gelu(pre_activation), of either kind. May be in place.
void gelu_forward(Context& context, Activation kind, ConstTensorView pre_activation, TensorView output);
/// gradient *= gelu'(pre_activation).
void gelu_backward(Context& context, Activation kind, ConstTensorView pre_activation, TensorView gradient);
/// gradient = 0 where output <= 0.
void relu_backward(Context& context, ConstTensorView output, TensorView gradient);
/// The mask of a ReLU's output as cuBLASLt writes it (matmul.h).
void relu_mask(Context& context, ConstTensorView output, TensorView mask);
/// gradient = 0 where the mask's bit is 0.
void apply_relu_mask(Context& context, ConstTensorView mask, TensorView gradient);
/// rows = rows + bias (of their type, or empty), then max(0, rows) if relu.
void add_bias(Context& context, TensorView rows, ConstTensorView bias, bool relu);
/// sums [1, columns] float32 = column sums of `rows`, in an order that follows from their number and the GPU.
void column_sums(Context& context, ConstTensorView rows, TensorView sums);
/// Of Context::workspace.
int64_t column_sums_scratch_bytes(const Context& context, ConstTensorView rows);

}  // namespace cbtm::cuda
