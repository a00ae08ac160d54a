#include "model/network/pass.h"

namespace cbtm {

void residual_norm(const Pass& pass, const NormTensors* norm, ResidualLayerNormForward arguments) {
  if (norm != nullptr) {
    arguments.gamma = norm->gamma;
    arguments.beta = norm->beta;
    arguments.epsilon = norm->epsilon;
  } else {
    arguments.normalized = {};
  }
  pass.operators().residual_layernorm_forward(arguments);
}

void residual_norm_backward(const Pass& pass, const NormTensors* norm, const NormTensors* gradients,
                            ResidualLayerNormBackward arguments) {
  if (norm != nullptr) {
    arguments.gamma = norm->gamma;
    arguments.gamma_gradient = gradients->gamma;
    arguments.beta_gradient = gradients->beta;
  } else {
    arguments.normalized_gradient = {};
  }
  pass.operators().residual_layernorm_backward(arguments);
}

}  // namespace cbtm
