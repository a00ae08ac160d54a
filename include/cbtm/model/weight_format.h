#pragma once

#include <cstdint>
#include <string_view>

namespace cbtm {

/// What inference keeps a model's matrices in. Biases and norms are always float32.
enum class WeightFormat : uint8_t {
  f32,
  bf16,
  int8,  ///< a float32 scale a row (quantise_int8); positions float32
  int4,  ///< linear layers in groups of 32 with a float16 scale each (quantise_int4); the token table as with int8
};

/// As --weights takes it.
constexpr std::string_view weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32: return "f32";
    case WeightFormat::bf16: return "bf16";
    case WeightFormat::int8: return "int8";
    case WeightFormat::int4: break;
  }
  return "int4";
}

}  // namespace cbtm
