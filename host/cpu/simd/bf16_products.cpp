// Products with bf16 weights by VDPBF16PS, which adds two products of bf16 numbers to a float32 lane. Compiled for
// AVX-512 BF16 (host/cpu/simd.cmake). Activations are rounded to bf16, to nearest and ties to even; the instruction
// rounds after each addition and takes numbers below 2^-126 as 0.
//
// A lane adds up its columns in order, then lanes are added in a fixed tree: a row's bits do not depend on others.

#include <hwy/highway.h>  // and with it immintrin.h, without GCC 12's false warnings (PR 105593)

#include "cpu/simd/narrow_products.h"

namespace cbtm::cpu {
namespace {

#include "cpu/simd/bf16_rows-inl.h"

constexpr int kRowsMax = 4, kOutputs = 4;

HWY_INLINE int64_t row_elements(int64_t in) { return (in + kLanes - 1) / kLanes * kLanes; }

int64_t operand_bytes(int64_t rows, int64_t in) { return rows * row_elements(in) * 2; }

void prepare(const float* input, int64_t input_stride, int64_t rows, int64_t in, char* operand) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < in; i += kLanes)
      _mm512_store_si512(operand + (r * row_elements(in) + i) * 2, rounded(input + r * input_stride + i, in - i));
}

/// The sums of the lanes of four vectors.
HWY_INLINE __m128 lane_sums(const __m512 (&sums)[4]) {
  const auto pairs = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const __m512d ab = _mm512_castps_pd(pairs(sums[0], sums[1])), cd = _mm512_castps_pd(pairs(sums[2], sums[3]));
  const __m512 quads =
      _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/// As assembly: GCC 12 copies every sum around the intrinsic, and then has too few registers.
HWY_INLINE void add_products(__m512& sums, __m512i w, __m512i x) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
}

/// Rows x, outputs w to w + 3 w_stride; those in `wanted` are written to the rows of `out`.
template <int kRows>
HWY_NOINLINE void tile(const uint16_t* x, int64_t in, const uint16_t* w, int64_t w_stride, __mmask8 wanted, float* out,
                       int64_t out_stride) {
  const int64_t x_stride = row_elements(in);
  __m512 sums[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) sums[r][o] = _mm512_setzero_ps();
  for (int64_t i = 0; i < in; i += kLanes, w += kLanes, x += kLanes) {
    const __mmask32 present = first_lanes(in - i);
    __m512i weights[kOutputs];
    for (int o = 0; o < kOutputs; ++o) weights[o] = _mm512_maskz_loadu_epi16(present, w + o * w_stride);
    for (int r = 0; r < kRows; ++r) {
      const __m512i of_row = _mm512_load_si512(x + r * x_stride);
      for (int o = 0; o < kOutputs; ++o) add_products(sums[r][o], weights[o], of_row);
    }
  }
  for (int r = 0; r < kRows; ++r) _mm_mask_storeu_ps(out + r * out_stride, wanted, lane_sums(sums[r]));
}

template <int kRows>
void rows_of_tile(const NarrowRange& range, int64_t row, int64_t first, int64_t count) {
  const auto* w = static_cast<const uint16_t*>(range.weight) + first * range.weight_stride;
  const auto* x = reinterpret_cast<const uint16_t*>(range.operand) + row * row_elements(range.in);
  float* out = range.out + row * range.out_stride + first;
  if (count == kOutputs) return tile<kRows>(x, range.in, w, range.weight_stride, 15, out, range.out_stride);
  for (int64_t o = 0; o < count; ++o)  // the same output as often as a tile has outputs
    tile<kRows>(x, range.in, w + o * range.weight_stride, 0, 1, out + o, range.out_stride);
}

void multiply(const NarrowRange& range) {
  const int64_t tiles = (range.rows + kRowsMax - 1) / kRowsMax;
  for (int64_t first = range.begin; first < range.end; first += kOutputs) {
    const int64_t count = range.end - first < kOutputs ? range.end - first : kOutputs;
    for (int64_t t = 0; t < tiles; ++t) {  // of nearly equal numbers of rows
      const int64_t row = range.rows * t / tiles;
      switch (range.rows * (t + 1) / tiles - row) {
        case 1: rows_of_tile<1>(range, row, first, count); break;
        case 2: rows_of_tile<2>(range, row, first, count); break;
        case 3: rows_of_tile<3>(range, row, first, count); break;
        default: rows_of_tile<4>(range, row, first, count); break;
      }
    }
  }
}

}  // namespace

extern const NarrowProduct kBf16Dot;
const NarrowProduct kBf16Dot = {operand_bytes, prepare, multiply};

}  // namespace cbtm::cpu
