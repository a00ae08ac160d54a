#pragma once

#include "model/network/pass.h"

namespace cbtm {

/// output = activation(input weightᵀ + bias); `saved`: LinearForward::saved, or empty.
inline void linear(const Pass& pass, ConstTensorView input, const LinearTensors& tensors, TensorView output,
                   Activation activation = Activation::none, TensorView saved = {}) {
  pass.operators().linear_forward({.input = input,
                                   .weight = tensors.weight,
                                   .bias = tensors.bias,
                                   .activation = activation,
                                   .output = output,
                                   .saved = saved,
                                   .weight_scales = tensors.weight_scales,
                                   .row_sums = pass.batch.row_sums});
}

/// What the gradient of a linear layer's input becomes.
struct InputGradient {
  TensorView gradient;  ///< empty: not wanted
  bool accumulate = false;
  Activation activation = Activation::none;  ///< that the input is the output of
  ConstTensorView saved = {};                ///< what that activation's forward pass left
};

inline void linear_backward(const Pass& pass, ConstTensorView input, const LinearTensors& tensors,
                            ConstTensorView output_gradient, const LinearTensors& gradients,
                            const InputGradient& wanted) {
  pass.operators().linear_backward({.input = input,
                                    .weight = tensors.weight,
                                    .output_gradient = output_gradient,
                                    .input_gradient = wanted.gradient,
                                    .accumulate_input_gradient = wanted.accumulate,
                                    .input_activation = wanted.activation,
                                    .input_saved = wanted.saved,
                                    .weight_gradient = gradients.weight,
                                    .bias_gradient = gradients.bias});
}

}  // namespace cbtm
