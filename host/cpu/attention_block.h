#pragma once

#include <algorithm>
#include <cstdint>

namespace cbtm::cpu {

/// out[c * rows + r] = x[r * stride + c]: the keys of a head with one key a column, in tiles so that both sides stay in
/// the nearest cache.
inline void transpose(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out) {
  constexpr int64_t kTile = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (int64_t c0 = 0; c0 < columns; c0 += kTile)
      for (int64_t c = c0; c < std::min(c0 + kTile, columns); ++c)
        for (int64_t r = r0; r < std::min(r0 + kTile, rows); ++r) out[c * rows + r] = x[r * stride + c];
}

}  // namespace cbtm::cpu
