// Products with int8 weights by VPDPBUSD, which adds four products of unsigned with signed bytes to a 32-bit lane.
// Compiled for AVX-512 VNNI and for AVX VNNI (host/cpu/simd.cmake).
//
// Weights become unsigned by 128 more, w ^ 0x80. What that adds to a sum, 128 * the sum of the row's values, is known
// when the row is prepared, and taken away again. Sums may wrap on the way: the result fits.

#include <hwy/highway.h>

#include "cpu/simd/narrow_products.h"

HWY_BEFORE_NAMESPACE();
namespace cbtm::cpu {
namespace {

#include "cpu/simd/quantise-inl.h"

/// The first, second, third and fourth number: the sums of the lanes of a, b, c and d.
HWY_INLINE __m128i lane_sums(__m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
  const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
  return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

// add_products is assembly: GCC 12 copies every sum around the intrinsic, and then has too few registers.
#ifdef __AVX512VNNI__
using Ints = __m512i;
constexpr int kRowsMax = 4;
HWY_INLINE Ints zero() { return _mm512_setzero_si512(); }
HWY_INLINE Ints load(const void* bytes) { return _mm512_loadu_si512(bytes); }
HWY_INLINE Ints load_weights(const int8_t* w) { return _mm512_xor_si512(load(w), _mm512_set1_epi8(-128)); }
HWY_INLINE void add_products(Ints& sums, Ints w, Ints x) { asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x)); }
HWY_INLINE Ints shifted(Ints sums, const void* shifts) { return _mm512_sllv_epi32(sums, load(shifts)); }
HWY_INLINE __m128i lane_sums(const Ints (&sums)[4]) {
  const auto pairs = [](Ints a, Ints b) HWY_ATTR {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  };
  const Ints ab = pairs(sums[0], sums[1]), cd = pairs(sums[2], sums[3]);
  const Ints quads = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(quads), _mm512_extracti64x4_epi64(quads, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
#else
using Ints = __m256i;
constexpr int kRowsMax = 3;
HWY_INLINE Ints zero() { return _mm256_setzero_si256(); }
HWY_INLINE Ints load(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }
HWY_INLINE Ints load_weights(const int8_t* w) { return _mm256_xor_si256(load(w), _mm256_set1_epi8(-128)); }
HWY_INLINE void add_products(Ints& sums, Ints w, Ints x) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(w), "x"(x));
}
HWY_INLINE Ints shifted(Ints sums, const void* shifts) { return _mm256_sllv_epi32(sums, load(shifts)); }
HWY_INLINE __m128i lane_sums(const Ints (&sums)[4]) {
  const auto half = [&](int o) HWY_ATTR {
    return _mm_add_epi32(_mm256_castsi256_si128(sums[o]), _mm256_extracti128_si256(sums[o], 1));
  };
  return lane_sums(half(0), half(1), half(2), half(3));
}
#endif
constexpr int64_t kBytes = sizeof(Ints);
constexpr int kOutputs = 4;

/// A prepared row: padded(in) values q, for each chunk its shifts, then the scales of the chunks and their biases.
struct Row {
  int8_t* values;
  int32_t* shifts;
  float* scales;
  int32_t* biases;  ///< 128 * the sum of q * 2^shift
};
HWY_INLINE Row row_at(char* row, int64_t in) {
  auto* const shifts = reinterpret_cast<int32_t*>(row + padded(in));
  auto* const scales = reinterpret_cast<float*>(shifts + kGroups * chunks_of(in));
  return {reinterpret_cast<int8_t*>(row), shifts, scales, reinterpret_cast<int32_t*>(scales + chunks_of(in))};
}
HWY_INLINE int64_t row_bytes(int64_t in) {
  return padded(in) + chunks_of(in) * kGroups * 4 + padded(chunks_of(in) * 8);
}

int64_t operand_bytes(int64_t rows, int64_t in) { return rows * row_bytes(in); }

void prepare(const float* input, int64_t input_stride, int64_t rows, int64_t in, char* operand) {
  for (int64_t r = 0; r < rows; ++r) {
    const Row row = row_at(operand + r * row_bytes(in), in);
    for (int64_t chunk = 0; chunk < chunks_of(in); ++chunk) {
      int8_t* const values = row.values + chunk * kChunk;
      int32_t* const shifts = row.shifts + chunk * kGroups;
      const int64_t count = chunk_columns(in, chunk);
      quantise_chunk(input + r * input_stride + chunk * kChunk, count, values, shifts, row.scales + chunk);
      int32_t sums[kStep] = {}, bias = 0;
      for (int64_t i = 0; i < padded(count); i += kStep)
        for (int64_t j = 0; j < kStep; ++j) sums[j] += values[i + j];
      for (int64_t j = 0; j < kStep; ++j) bias += 128 * (1 << shifts[j / 4]) * sums[j];
      row.biases[chunk] = bias;
    }
  }
}

/// Places of a row's totals of a block, and room for what tiles write beyond.
constexpr int64_t kTotals = kBlock + kOutputs;

/// totals[r * kTotals + o] = the sum over a chunk of `count` columns, for the kRows rows from `x` on.
template <int kRows>
HWY_NOINLINE void tile(const Row& x, int64_t x_stride, int64_t chunk, int64_t count, const int8_t* w, int64_t w_stride,
                       int32_t* totals) {
  __m128i sums_of_parts[kRows];
  for (int r = 0; r < kRows; ++r) sums_of_parts[r] = _mm_setzero_si128();
  for (int64_t part = 0; part < kStep; part += kBytes) {  // of the groups: as many as a vector has lanes
    Ints sums[kRows][kOutputs];
    for (int r = 0; r < kRows; ++r)
      for (int o = 0; o < kOutputs; ++o) sums[r][o] = zero();
    const int8_t* values = x.values + chunk * kChunk + part;
    const int8_t* place = w + part;
    int64_t stride = w_stride;
    alignas(64) int8_t rest[kOutputs][kStep];
    for (int64_t i = 0; i < count; i += kStep, place += kStep, values += kStep) {
      if (i + kStep > count) {
        for (int64_t o = 0; o < kOutputs; ++o)
          for (int64_t j = 0; j < kStep; ++j) rest[o][j] = i + j < count ? w[o * w_stride + i + j] : int8_t{0};
        place = rest[0] + part;
        stride = kStep;
      }
      Ints weights[kOutputs];
      for (int o = 0; o < kOutputs; ++o) weights[o] = load_weights(place + o * stride);
      for (int r = 0; r < kRows; ++r) {
        const Ints of_row = load(values + r * x_stride);
        for (int o = 0; o < kOutputs; ++o) add_products(sums[r][o], weights[o], of_row);
      }
    }
    const auto* shifts = reinterpret_cast<const char*>(x.shifts + chunk * kGroups) + part;
    for (int r = 0; r < kRows; ++r) {
      for (int o = 0; o < kOutputs; ++o) sums[r][o] = shifted(sums[r][o], shifts + r * x_stride);
      sums_of_parts[r] = _mm_add_epi32(sums_of_parts[r], lane_sums(sums[r]));
    }
  }
  for (int r = 0; r < kRows; ++r) _mm_storeu_si128(reinterpret_cast<__m128i*>(totals + r * kTotals), sums_of_parts[r]);
}

template <int kRows>
void rows_of_block(const NarrowRange& range, int64_t row, int64_t first, int64_t count) {
  const int64_t in = range.in, stride = range.weight_stride;
  const auto* weight = static_cast<const int8_t*>(range.weight) + first * stride;
  alignas(64) int32_t totals[kRows * kTotals] = {};
  alignas(64) float y[kRows * kBlock] = {};
  for (int64_t r = 0; r < kRows; ++r) prefetch_outputs(range.out + (row + r) * range.out_stride + first, count);
  for (int64_t chunk = 0; chunk < chunks_of(in); ++chunk) {
    const int64_t columns = chunk_columns(in, chunk);
    const Row x = row_at(range.operand + row * row_bytes(in), in);
    const int8_t* w = weight + chunk * kChunk;
    int64_t o = 0;
    for (; o + kOutputs <= count; o += kOutputs)
      tile<kRows>(x, row_bytes(in), chunk, columns, w + o * stride, stride, totals + o);
    for (; o < count; ++o)  // the same output as often as a tile has outputs
      tile<kRows>(x, row_bytes(in), chunk, columns, w + o * stride, 0, totals + o);
    for (int64_t r = 0; r < kRows; ++r) {
      const Row one = row_at(range.operand + (row + r) * row_bytes(in), in);
      int32_t* of_row = totals + r * kTotals;
      for (int64_t o = 0; o < kBlock; ++o) of_row[o] -= one.biases[chunk];
      add_chunk<kBlock>(of_row, one.scales[chunk], y + r * kBlock);
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    float* out = range.out + (row + r) * range.out_stride + first;
    if (count == kBlock) {  // a length that the compiler knows
      for (int64_t o = 0; o < kBlock; ++o) out[o] = y[r * kBlock + o] * range.scales[first + o];
    } else {
      for (int64_t o = 0; o < count; ++o) out[o] = y[r * kBlock + o] * range.scales[first + o];
    }
  }
}

void multiply(const NarrowRange& range) {
  const int64_t tiles = (range.rows + kRowsMax - 1) / kRowsMax;
  for (int64_t first = range.begin; first < range.end; first += kBlock) {
    const int64_t count = range.end - first < kBlock ? range.end - first : kBlock;
    for (int64_t t = 0; t < tiles; ++t) {  // of nearly equal numbers of rows
      const int64_t row = range.rows * t / tiles;
      switch (range.rows * (t + 1) / tiles - row) {
        case 1: rows_of_block<1>(range, row, first, count); break;
        case 2: rows_of_block<2>(range, row, first, count); break;
#ifdef __AVX512VNNI__
        case 3: rows_of_block<3>(range, row, first, count); break;
        default: rows_of_block<4>(range, row, first, count); break;
#else
        default: rows_of_block<3>(range, row, first, count); break;
#endif
      }
    }
  }
}

}  // namespace

extern const NarrowProduct CBTM_SIMD_TABLE;
const NarrowProduct CBTM_SIMD_TABLE = {operand_bytes, prepare, multiply};

}  // namespace cbtm::cpu
HWY_AFTER_NAMESPACE();
