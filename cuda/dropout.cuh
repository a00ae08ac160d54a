#pragma once

#include <cmath>
#include <cstdint>

#include "cbtm/base/philox.h"
#include "cbtm/device/dropout.h"

namespace cbtm::cuda {

/// A Dropout as kernels take it. A word is dropped when (word >> 8) * 2^-24 < probability, that is when word >> 8 is
/// below probability * 2^24 rounded up.
struct DropoutDraw {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t site = 0;
  uint32_t limit = 0;  ///< 0: nothing is dropped
  float kept = 1;      ///< multiplier of what is kept
  int64_t first_row = 0;
  const int64_t* place = nullptr;  ///< on the device: {step, first_row} in place of those above; or null

  DropoutDraw() = default;
  explicit DropoutDraw(const Dropout& dropout)
      : seed(dropout.seed),
        step(dropout.step),
        site(dropout.site),
        limit(static_cast<uint32_t>(std::ceil(static_cast<double>(dropout.probability) * 16777216.0))),
        kept(1.0f / (1.0f - dropout.probability)),
        first_row(dropout.first_row),
        place(dropout.place ? dropout.place.as<int64_t>() : nullptr) {}

  /// The draw of this run of the kernel.
  __device__ DropoutDraw placed() const {
    DropoutDraw draw = *this;
    if (place != nullptr) {
      draw.step = static_cast<uint32_t>(place[0]);
      draw.first_row = place[1];
    }
    return draw;
  }

  /// Words of elements 4 * group .. 4 * group + 3.
  __device__ PhiloxCounter words(uint64_t group) const {
    return philox({{static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), site, step}}, seed);
  }
  __device__ float multiplier(uint32_t word) const { return (word >> 8) < limit ? 0.0f : kept; }

  /// Multipliers of the elements first .. first + kLength, kLength a multiple of 4: a draw gives four neighbours, and
  /// one more is needed where they do not start at a multiple of 4.
  template <int kLength>
  __device__ void multipliers(uint64_t first, float (&out)[kLength]) const {
    static_assert(kLength % 4 == 0);
    const uint32_t phase = static_cast<uint32_t>(first % 4);
    PhiloxCounter now = words(first / 4);
#pragma unroll
    for (int i = 0; i < kLength; i += 4) {
      const bool wants_next = phase != 0 || i + 4 < kLength;
      const PhiloxCounter next = wants_next ? words(first / 4 + static_cast<uint64_t>(i / 4) + 1) : now;
      const uint32_t both[8] = {now.word[0],  now.word[1],  now.word[2],  now.word[3],
                                next.word[0], next.word[1], next.word[2], next.word[3]};
#pragma unroll
      for (int k = 0; k < 4; ++k)
        out[i + k] = multiplier(phase == 0   ? both[k]
                                : phase == 1 ? both[k + 1]
                                : phase == 2 ? both[k + 2]
                                             : both[k + 3]);
      now = next;
    }
  }
};

}  // namespace cbtm::cuda
