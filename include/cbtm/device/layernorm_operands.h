#pragma once

#include "cbtm/device/dropout.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

/// sum = residual + drop(branch); normalized = (sum - mean) * rstd * gamma + beta, mean and biased variance of each
/// row by two passes, rstd = 1 / sqrt(variance + epsilon). Empty branch: sum = residual. Empty gamma / beta: 1 / 0.
/// dropout element = (first_row + r) * width + c.
struct ResidualLayerNormForward {
  ConstTensorView residual;  ///< [rows, width]
  ConstTensorView branch;    ///< [rows, width], or empty
  Dropout dropout;
  ConstTensorView gamma;  ///< [1, width], or empty
  ConstTensorView beta;
  float epsilon = 1e-5f;
  TensorView sum;         ///< [rows, width]; may be `residual` itself; may be empty if branch is
  TensorView normalized;  ///< [rows, width], or empty: only the sum is wanted (last residual of a model without norm)
  TensorView mean;        ///< float32 [1, rows], or both empty in inference
  TensorView rstd;
};

/// From d normalized (and d sum of the later residual path, if given):
///   sum_gradient = sum_gradient_in + layernorm_backward(normalized_gradient);
///   branch_gradient = sum_gradient * dropout mask / (1 - p), if asked for; gamma and beta gradients accumulate.
struct ResidualLayerNormBackward {
  ConstTensorView normalized_gradient;  ///< [rows, width], or empty (then only the dropout mask is applied)
  ConstTensorView sum_gradient_in;      ///< [rows, width], or empty; may be the same memory as sum_gradient
  ConstTensorView sum;                  ///< as written by the forward pass
  ConstTensorView mean, rstd;
  ConstTensorView gamma;
  Dropout dropout;
  TensorView sum_gradient;     ///< [rows, width]
  TensorView branch_gradient;  ///< [rows, width], or empty; may be sum_gradient itself
  TensorView gamma_gradient;   ///< float32 [1, width], or empty
  TensorView beta_gradient;
};

}  // namespace cbtm
