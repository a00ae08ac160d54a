#pragma once

#include <cstdint>

#include "cbtm/device/dropout.h"

namespace cbtm::cuda {

/// The dropout of a matrix's rows as kernels take it (cbtm/device/dropout.h).
struct DropoutDraw {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t site = 0;
  uint32_t limit = 0;  ///< bytes below it are dropped; 0: nothing is
  float kept = 1;      ///< multiplier of what is kept
  int64_t first_row = 0;
  const int64_t* place = nullptr;  ///< on the device: {step, first_row} in place of those above; or null

  DropoutDraw() = default;
  explicit DropoutDraw(const Dropout& dropout)
      : seed(dropout.seed),
        step(dropout.step),
        site(dropout.site),
        limit(dropout.limit()),
        kept(dropout.kept_scale()),
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

  /// Multipliers of the columns column .. column + kLength - 1 of a row of a matrix of `width` columns. `column` is a
  /// multiple of kLength, which is 4, 8 or 16.
  template <int kLength>
  __device__ void multipliers(int64_t row, int column, int width, float (&out)[kLength]) const {
    static_assert(kLength == 4 || kLength == 8 || kLength == 16);
    const int64_t group = (first_row + row) * ((width + 15) / 16) + column / 16;
    const PhiloxCounter words = dropout_group(static_cast<uint64_t>(group), site, step, seed);
#pragma unroll
    for (int i = 0; i < kLength; i += 4) {
      const uint32_t word = word_of<kLength>(words, column, i / 4);
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) out[i + byte] = word << (24 - 8 * byte) < limit << 24 ? 0.0f : kept;
    }
  }

 private:
  /// Word `i` of those that decide about the columns from `column` on, with no register chosen by its number.
  template <int kLength>
  __device__ static uint32_t word_of(const PhiloxCounter& words, int column, int i) {
    if (kLength == 16) return words.word[i];
    if (kLength == 8) return column % 16 < 8 ? words.word[i] : words.word[i + 2];
    const uint32_t even = column % 16 < 8 ? words.word[0] : words.word[2];
    const uint32_t odd = column % 16 < 8 ? words.word[1] : words.word[3];
    return column % 8 < 4 ? even : odd;
  }
};

}  // namespace cbtm::cuda
