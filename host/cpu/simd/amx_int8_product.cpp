// Products of many rows with int8 weights by AMX: TDPBSSD adds products of signed bytes to int32 sums.
//
// The shifts of a chunk's groups (quantise-inl.h) would have to be applied between steps of the sum. Instead a value
// v = q * 2^shift, of 15 bits, is cut in two, v = 128 * high + low with -64 <= low < 64 and -127 <= high <= 127, and
// both halves are multiplied: 128 * (sum of highs) + (sum of lows) is the chunk's exact sum, as in every other kernel.

#include <hwy/highway.h>

#include "cpu/simd/narrow_products.h"

HWY_BEFORE_NAMESPACE();
namespace cbtm::cpu {
namespace {

#include "cpu/simd/amx-inl.h"
#include "cpu/simd/quantise-inl.h"

HWY_INLINE int64_t steps_of(int64_t in) { return padded(in) / kStep; }

// Sixteen prepared rows: for each 64 columns a tile of highs and one of lows, then for each chunk the rows' scales.
HWY_INLINE int64_t group_bytes(int64_t in) { return steps_of(in) * 2 * kTileBytes + chunks_of(in) * 64; }
HWY_INLINE char* scales_of(char* group, int64_t in, int64_t chunk) {
  return group + steps_of(in) * 2 * kTileBytes + chunk * 64;
}

int64_t operand_bytes(int64_t rows, int64_t in) { return (rows + kTileRows - 1) / kTileRows * group_bytes(in); }

void prepare(const float* input, int64_t input_stride, int64_t rows, int64_t in, char* operand) {
  alignas(64) int8_t values[kTileRows][kChunk];
  alignas(64) uint8_t bytes_of_shifts[kTileRows][kStep];
  alignas(64) float scales[kTileRows];
  for (int64_t first = 0; first < rows; first += kTileRows, operand += group_bytes(in)) {
    const int64_t present = rows - first < kTileRows ? rows - first : kTileRows;
    if (present < kTileRows) __builtin_memset(values, 0, sizeof(values));
    char* target = operand;
    for (int64_t chunk = 0; chunk < chunks_of(in); ++chunk) {
      const int64_t count = chunk_columns(in, chunk);
      for (int64_t r = 0; r < kTileRows; ++r) {
        int32_t shifts[kGroups] = {};
        scales[r] = 0;
        if (r < present)
          quantise_chunk(input + (first + r) * input_stride + chunk * kChunk, count, values[r], shifts, scales + r);
        for (int64_t i = 0; i < kStep; ++i) bytes_of_shifts[r][i] = static_cast<uint8_t>(1 << shifts[i / 4]);
      }
      _mm512_store_ps(scales_of(operand, in, chunk), _mm512_load_ps(scales));
      for (int64_t i = 0; i < count; i += kStep) {
        Tile high, low;
        for (int64_t r = 0; r < kTileRows; ++r) {
          alignas(64) int8_t highs[kStep], lows[kStep];
          for (int64_t j = 0; j < kStep; ++j) {
            const int value = values[r][i + j] * bytes_of_shifts[r][j], upper = (value + 64) >> 7;
            highs[j] = static_cast<int8_t>(upper);
            lows[j] = static_cast<int8_t>(value - upper * 128);
          }
          high.rows[r] = _mm512_load_si512(highs);
          low.rows[r] = _mm512_load_si512(lows);
        }
        transpose(high.rows);
        transpose(low.rows);
        for (int64_t r = 0; r < kTileRows; ++r) {
          _mm512_store_si512(target + r * 64, high.rows[r]);
          _mm512_store_si512(target + kTileBytes + r * 64, low.rows[r]);
        }
        target += 2 * kTileBytes;
      }
    }
  }
}

/// y += scales * (128 * highs + lows), lane by lane of 16 outputs. Two roundings, as add_chunk.
HWY_INLINE void add_chunk(const Tile& highs, const Tile& lows, __m512 scales, __m512 (&y)[16]) {
  for (int o = 0; o < 16; ++o) {
    const __m512i total = _mm512_add_epi32(_mm512_slli_epi32(highs.rows[o], 7), lows.rows[o]);
    y[o] = _mm512_add_ps(y[o], _mm512_mul_ps(_mm512_cvtepi32_ps(total), scales));
  }
}

/// 16 or 32 outputs by 16 rows.
template <bool kTwoPanels>
HWY_INLINE void tiles(const NarrowRange& range, int64_t first, int64_t row) {
  const int64_t in = range.in, count = range.end - first, stride = range.weight_stride;
  const auto* weight = static_cast<const char*>(range.weight) + first * stride;
  char* group = range.operand + row / kTileRows * group_bytes(in);
  const char* x = group;
  for (int64_t r = row; r < row + kTileRows && r < range.rows; ++r)
    prefetch_outputs(range.out + r * range.out_stride + first, count < 2 * kTileRows ? count : 2 * kTileRows);
  Tile copies[2], sums[4];
  __m512 y[2][16] = {};
  for (int64_t chunk = 0; chunk < chunks_of(in); ++chunk) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const int64_t begin = chunk * kChunk, end = begin + chunk_columns(in, chunk);
    for (int64_t i = begin; i < end; i += kStep, x += 2 * kTileBytes) {
      const WeightTile upper = weight_tile(weight + i, stride, count, in - i, copies[0]);
      _tile_loadd(4, upper.data, upper.stride);
      _tile_loadd(6, x, kTileColumns);
      _tile_loadd(7, x + kTileBytes, kTileColumns);
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      if constexpr (kTwoPanels) {
        const WeightTile lower =
            weight_tile(weight + kTileRows * stride + i, stride, count - kTileRows, in - i, copies[1]);
        _tile_loadd(5, lower.data, lower.stride);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
    }
    const __m512 scales = _mm512_load_ps(scales_of(group, in, chunk));
    _tile_stored(0, &sums[0], kTileColumns);
    _tile_stored(1, &sums[1], kTileColumns);
    add_chunk(sums[0], sums[1], scales, y[0]);
    if constexpr (kTwoPanels) {
      _tile_stored(2, &sums[2], kTileColumns);
      _tile_stored(3, &sums[3], kTileColumns);
      add_chunk(sums[2], sums[3], scales, y[1]);
    }
  }
  for (int panel = 0; panel < (kTwoPanels ? 2 : 1); ++panel) {
    const int64_t output = first + panel * kTileRows, outputs = range.end - output;
    Tile results;
    for (int64_t o = 0; o < kTileRows; ++o) {
      const float scale = o < outputs ? range.scales[output + o] : 0;
      results.rows[o] = _mm512_castps_si512(_mm512_mul_ps(y[panel][o], _mm512_set1_ps(scale)));
    }
    store_transposed(results.rows, range.rows - row, outputs, range.out + row * range.out_stride + output,
                     range.out_stride);
  }
}

void multiply(const NarrowRange& range) {
  const TileConfiguration configured;
  for (int64_t first = range.begin; first < range.end; first += 2 * kTileRows)
    for (int64_t row = 0; row < range.rows; row += kTileRows) {
      if (range.end - first > kTileRows)
        tiles<true>(range, first, row);
      else
        tiles<false>(range, first, row);
    }
}

}  // namespace

extern const NarrowProduct kInt8Amx;
const NarrowProduct kInt8Amx = {operand_bytes, prepare, multiply};

}  // namespace cbtm::cpu
HWY_AFTER_NAMESPACE();
