#pragma once

#include <cstdint>

namespace cbtm {

/// relu(x) = max(x, 0); gelu(x) = x Φ(x), by the error function; gelu_tanh(x) =
/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), its approximation (Hendrycks and Gimpel, arXiv 1606.08415).
enum class Activation : uint8_t { none, relu, gelu, gelu_tanh };

constexpr bool is_gelu(Activation activation) {
  return activation == Activation::gelu || activation == Activation::gelu_tanh;
}

}  // namespace cbtm
