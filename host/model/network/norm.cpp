#include "model/network/pass.h"

namespace cbtm {

void residual_norm(const Pass& pass, const ResidualNorm& a) {
  const NormTensors none;
  const NormTensors& norm = a.norm != nullptr ? *a.norm : none;
  pass.operators().residual_layernorm_forward({.residual = a.residual,
                                               .branch = a.branch,
                                               .dropout = a.dropout,
                                               .gamma = norm.gamma,
                                               .beta = norm.beta,
                                               .epsilon = norm.epsilon,
                                               .sum = a.sum,
                                               .normalized = a.norm != nullptr ? a.normalized : TensorView(),
                                               .mean = a.mean,
                                               .rstd = a.rstd});
}

void residual_norm_backward(const Pass& pass, const ResidualNormBackward& a) {
  const NormTensors none;
  const NormTensors& norm = a.norm != nullptr ? *a.norm : none;
  const NormTensors& gradients = a.gradients != nullptr ? *a.gradients : none;
  pass.operators().residual_layernorm_backward(
      {.normalized_gradient = a.norm != nullptr ? a.normalized_gradient : ConstTensorView(),
       .sum_gradient_in = a.sum_gradient_in,
       .sum = a.sum,
       .mean = a.mean,
       .rstd = a.rstd,
       .gamma = norm.gamma,
       .dropout = a.dropout,
       .sum_gradient = a.sum_gradient,
       .branch_gradient = a.branch_gradient,
       .gamma_gradient = gradients.gamma,
       .beta_gradient = gradients.beta});
}

}  // namespace cbtm
