#pragma once

#include <cstdint>

#include "cbtm/device/tensor.h"

namespace cbtm {

/// AdamW as in torch (docs/numerics.md, 'Optimizer'), over flat buffers, one launch. The first `decayed_count` elements
/// (the matrices) are decayed, the rest (biases and norms) are not. Gradients are divided by loss_scale, then
/// multiplied by min(1, clip_norm / (norm + 1e-6)) (clip_norm 0: never), norm = sqrt(gradient_square_sum) / loss_scale.
/// If the norm is not finite nothing is updated. Gradients are zeroed in either case.
struct AdamW {
  TensorView weights;                        ///< float32 [1, n]
  TensorView gradients;                      ///< float32 [1, n]
  TensorView first_moments, second_moments;  ///< float32 [1, n]
  TensorView working_weights;                ///< bfloat16 or float16 [1, n]: the new weights rounded; or empty
  ConstTensorView gradient_square_sum;       ///< float64 [1, 1] of `gradients` as they are, on the device
  float loss_scale = 1;                      ///< `gradients` are those of the loss times this (float16 training)
  int64_t decayed_count = 0;
  int64_t step = 1;  ///< counts from 1
  float learning_rate = 0;
  float beta1 = 0.9f, beta2 = 0.95f;
  float epsilon = 1e-8f;
  float weight_decay = 0;
  float clip_norm = 0;
};

/// The operators that update parameters by their gradients (Device::optimizer_operators).
class OptimizerOperators {
 public:
  virtual ~OptimizerOperators() = default;

  /// square_sum (float64 [1, 1]) = Σ gradients², in a fixed order; NaN or Inf shows in it.
  virtual void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) = 0;
  virtual void adamw(const AdamW& arguments) = 0;
  /// result (float64 [1, 1]) becomes NaN if any of `values` (float64 [1, n]) is not finite, and stays as it is
  /// otherwise.
  virtual void require_finite(ConstTensorView values, TensorView result) = 0;
};

}  // namespace cbtm
