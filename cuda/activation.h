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
/// sums [1, columns] float32 += column sums of `rows`, in a fixed order.
void add_column_sums(Context& context, ConstTensorView rows, TensorView sums);

}  // namespace cbtm::cuda
