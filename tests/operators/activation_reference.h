#pragma once

#include <cmath>
#include <numbers>

#include "cbtm/device/activation.h"
#include "tests/operators/bounded.h"

namespace cbtm {

// The formulas of cbtm/device/activation.h and their derivatives, of Bounded or double.

template <typename Number>
Number gelu(Activation kind, Number x) {
  using std::erf, std::tanh;
  if (kind == Activation::gelu) return 0.5 * x * (1.0 + erf(x * std::numbers::sqrt2 / 2.0));
  const Number inner = std::sqrt(2 * std::numbers::inv_pi) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + tanh(inner));
}

template <typename Number>
Number gelu_derivative(Activation kind, Number x) {
  using std::erf, std::exp, std::tanh;
  const double factor = std::sqrt(2 * std::numbers::inv_pi);
  if (kind == Activation::gelu)
    return 0.5 * (1.0 + erf(x * std::numbers::sqrt2 / 2.0)) + x * (factor / 2) * exp(-0.5 * x * x);
  const Number t = tanh(factor * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * factor * (1.0 + 0.134145 * x * x);
}

inline Bounded activated(Activation kind, Bounded x) {
  switch (kind) {
    case Activation::none: return x;
    case Activation::relu: return positive_part(x);
    default: return gelu(kind, x);
  }
}
inline double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::none: return x;
    case Activation::relu: return std::max(x, 0.0);
    default: return gelu(kind, x);
  }
}

inline const char* activation_name(Activation kind) {
  switch (kind) {
    case Activation::none: return "none";
    case Activation::relu: return "relu";
    case Activation::gelu: return "gelu";
    case Activation::gelu_tanh: return "gelu_tanh";
  }
  return "";
}

}  // namespace cbtm
