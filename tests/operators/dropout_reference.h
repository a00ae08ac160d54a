#pragma once

#include <cstdint>

#include "cbtm/base/philox.h"
#include "cbtm/device/dropout.h"

namespace cbtm {

/// What dropout multiplies element `element` by (cbtm/device/dropout.h): 0 or 1 / (1 - probability).
inline double dropout_multiplier(const Dropout& dropout, int64_t element) {
  if (!dropout.active()) return 1;
  const auto group = static_cast<uint64_t>(element / 4);
  const PhiloxCounter words = philox(
      {{static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), dropout.site, dropout.step}}, dropout.seed);
  if (uniform_from_bits(words.word[element % 4]) < dropout.probability) return 0;
  return 1 / (1 - static_cast<double>(dropout.probability));
}

}  // namespace cbtm
