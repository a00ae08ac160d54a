// Products of many rows with bf16 weights by AMX: TDPBF16PS adds pairs of products, column by column, to float32 sums.
// Activations are rounded to bf16 as in bf16_products.cpp. An element's sum runs along its row in one order, whatever
// the other rows and outputs are.

#include <hwy/highway.h>  // and with it immintrin.h, without GCC 12's false warnings (PR 105593)

#include "cpu/simd/narrow_products.h"

namespace cbtm::cpu {
namespace {

#include "cpu/simd/amx-inl.h"
#include "cpu/simd/bf16_rows-inl.h"

HWY_INLINE int64_t steps_of(int64_t in) { return (in + kLanes - 1) / kLanes; }

int64_t operand_bytes(int64_t rows, int64_t in) {
  return (rows + kTileRows - 1) / kTileRows * steps_of(in) * kTileBytes;
}

/// Sixteen rows after sixteen rows: a tile for each 32 columns.
void prepare(const float* input, int64_t input_stride, int64_t rows, int64_t in, char* operand) {
  for (int64_t first = 0; first < rows; first += kTileRows)
    for (int64_t i = 0; i < in; i += kLanes) {
      Tile tile;
      for (int64_t r = 0; r < kTileRows; ++r)
        tile.rows[r] =
            first + r < rows ? rounded(input + (first + r) * input_stride + i, in - i) : _mm512_setzero_si512();
      transpose(tile.rows);
      for (const __m512i row : tile.rows) {
        _mm512_store_si512(operand, row);
        operand += sizeof(row);
      }
    }
}

/// 16 or 32 outputs by 16 or 32 rows.
template <bool kTwoPanels, bool kTwoRowTiles>
HWY_INLINE void tiles(const NarrowRange& range, int64_t first, int64_t row) {
  const int64_t in = range.in, steps = steps_of(in), count = range.end - first;
  const auto* weight = static_cast<const char*>(range.weight) + first * range.weight_stride * 2;
  const int64_t weight_bytes = range.weight_stride * 2;
  const char* x = range.operand + row / kTileRows * steps * kTileBytes;
  const char* next_x = x + steps * kTileBytes;
  Tile copies[2];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t offset = step * kTileColumns, bytes = in * 2 - offset;
    const WeightTile upper = weight_tile(weight + offset, weight_bytes, count, bytes, copies[0]);
    _tile_loadd(4, upper.data, upper.stride);
    _tile_loadd(6, x + step * kTileBytes, kTileColumns);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwoRowTiles) {
      _tile_loadd(7, next_x + step * kTileBytes, kTileColumns);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTwoPanels) {
      const WeightTile lower =
          weight_tile(weight + kTileRows * weight_bytes + offset, weight_bytes, count - kTileRows, bytes, copies[1]);
      _tile_loadd(5, lower.data, lower.stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kTwoRowTiles) _tile_dpbf16ps(3, 5, 7);
    }
  }
  Tile sums[4];
  _tile_stored(0, &sums[0], kTileColumns);
  if constexpr (kTwoRowTiles) _tile_stored(1, &sums[1], kTileColumns);
  if constexpr (kTwoPanels) _tile_stored(2, &sums[2], kTileColumns);
  if constexpr (kTwoPanels && kTwoRowTiles) _tile_stored(3, &sums[3], kTileColumns);
  for (int panel = 0; panel < (kTwoPanels ? 2 : 1); ++panel)
    for (int half = 0; half < (kTwoRowTiles ? 2 : 1); ++half)
      store_transposed(sums[panel * 2 + half].rows, range.rows - row - half * kTileRows, count - panel * kTileRows,
                       range.out + (row + half * kTileRows) * range.out_stride + first + panel * kTileRows,
                       range.out_stride);
}

void multiply(const NarrowRange& range) {
  const TileConfiguration configured;
  for (int64_t first = range.begin; first < range.end; first += 2 * kTileRows) {
    const bool two_panels = range.end - first > kTileRows;
    for (int64_t row = 0; row < range.rows; row += 2 * kTileRows) {
      const bool two_row_tiles = range.rows - row > kTileRows;
      if (two_panels && two_row_tiles)
        tiles<true, true>(range, first, row);
      else if (two_panels)
        tiles<true, false>(range, first, row);
      else if (two_row_tiles)
        tiles<false, true>(range, first, row);
      else
        tiles<false, false>(range, first, row);
    }
  }
}

}  // namespace

extern const NarrowProduct kBf16Amx;
const NarrowProduct kBf16Amx = {operand_bytes, prepare, multiply};

}  // namespace cbtm::cpu
