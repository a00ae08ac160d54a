#pragma once

#include <cmath>
#include <cstdint>

#include "cbtm/device/activation.h"

namespace cbtm::cpu {

// The two kinds of GELU of cbtm/device/activation.h and their derivatives.

inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); }
inline float gelu_derivative(float x) {
  const float density = 0.3989422804014327f * std::exp(-0.5f * x * x);
  return 0.5f * (1.0f + std::erf(x * 0.70710678118654752f)) + x * density;
}

inline float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}
inline float gelu_tanh_derivative(float x) {
  const float t = std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 0.134145f * x * x);
}

/// values = gelu(values), of the kind that `activation` says.
inline void apply_gelu(Activation activation, float* values, int64_t count) {
  if (activation == Activation::gelu_tanh)
    for (int64_t i = 0; i < count; ++i) values[i] = gelu_tanh(values[i]);
  else
    for (int64_t i = 0; i < count; ++i) values[i] = gelu(values[i]);
}
/// gradient *= gelu'(input).
inline void apply_gelu_derivative(Activation activation, const float* input, float* gradient, int64_t count) {
  if (activation == Activation::gelu_tanh)
    for (int64_t i = 0; i < count; ++i) gradient[i] *= gelu_tanh_derivative(input[i]);
  else
    for (int64_t i = 0; i < count; ++i) gradient[i] *= gelu_derivative(input[i]);
}

}  // namespace cbtm::cpu
