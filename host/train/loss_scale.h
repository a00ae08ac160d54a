#pragma once

#include <algorithm>
#include <cstdint>

namespace cbtm {

/// Dynamic loss scale of float16 training: gradients of the loss times `value` do not vanish in float16. An overflow
/// halves it and costs the step; kGrowAfter steps without one double it. Powers of two, so that it rounds nothing.
struct LossScale {
  static constexpr double kStart = 65'536;
  static constexpr double kLargest = 16'777'216;
  static constexpr int64_t kGrowAfter = 1000;

  double value = 1;  ///< 1 where no scale is needed
  int64_t steps_since_change = 0;

  static LossScale start() { return {.value = kStart}; }

  /// After a step. False if the step overflowed and a lower scale may help: it is lowered.
  bool update(bool finite) {
    if (!finite) {
      if (value <= 1) return true;
      value = std::max(1.0, value / 2);
      steps_since_change = 0;
      return false;
    }
    if (++steps_since_change >= kGrowAfter && value < kLargest) {
      value *= 2;
      steps_since_change = 0;
    }
    return true;
  }
};

}  // namespace cbtm
