#pragma once

#include <cstdint>

namespace cbtm {

/// Of positive numbers.
constexpr int64_t ceil_divide(int64_t numerator, int64_t denominator) {
  return (numerator + denominator - 1) / denominator;
}
/// The least multiple of `multiple` that is not below `value`.
constexpr int64_t round_up(int64_t value, int64_t multiple) { return ceil_divide(value, multiple) * multiple; }

}  // namespace cbtm
