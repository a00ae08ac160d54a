// Products with int8 weights on every processor: weights and activations meet as int16, whose products are added in
// pairs to int32 sums (pmaddwd), exactly. Compiled once per instruction set (host/cpu/simd.cmake), as kernels.cpp is,
// and by the same rule: no inline functions of other headers.

#include <hwy/highway.h>

#include "cpu/simd/narrow_products.h"

HWY_BEFORE_NAMESPACE();
namespace cbtm::cpu {
namespace {

#include "cpu/simd/quantise-inl.h"

namespace hn = hwy::HWY_NAMESPACE;
const hn::ScalableTag<int16_t> kShorts;
const hn::RepartitionToWide<decltype(kShorts)> kInts;
const hn::Rebind<int8_t, decltype(kShorts)> kBytes;
constexpr int64_t kLanes = HWY_LANES(int16_t);
static_assert(kStep % kLanes == 0, "whole vectors");

// A prepared row: padded(in) int16 values q * 2^shift, then the scales of the chunks.
HWY_INLINE int64_t row_bytes(int64_t in) { return 2 * padded(in) + padded(4 * chunks_of(in)); }
HWY_INLINE const float* scales_of(const char* row, int64_t in) {
  return reinterpret_cast<const float*>(row + 2 * padded(in));
}

int64_t operand_bytes(int64_t rows, int64_t in) { return rows * row_bytes(in); }

void prepare(const float* input, int64_t input_stride, int64_t rows, int64_t in, char* operand) {
  HWY_ALIGN int8_t values[kChunk];
  HWY_ALIGN int32_t shifts[kGroups];
  for (int64_t r = 0; r < rows; ++r) {
    char* row = operand + r * row_bytes(in);
    auto* const scales = reinterpret_cast<float*>(row + 2 * padded(in));
    for (int64_t chunk = 0; chunk < chunks_of(in); ++chunk) {
      const int64_t count = chunk_columns(in, chunk);
      quantise_chunk(input + r * input_stride + chunk * kChunk, count, values, shifts, scales + chunk);
      int16_t factors[kStep];
      for (int64_t i = 0; i < kStep; ++i) factors[i] = static_cast<int16_t>(1 << shifts[i / 4]);
      int16_t* wide = reinterpret_cast<int16_t*>(row) + chunk * kChunk;
      for (int64_t i = 0; i < padded(count); i += kStep)
        for (int64_t j = 0; j < kStep; ++j) wide[i + j] = static_cast<int16_t>(values[i + j] * factors[j]);
    }
  }
}

/// Outputs and rows of a tile: what 16 registers hold.
constexpr int kOutputs = 4, kRowsMax = 2;

/// Writes the sums of the lanes of four vectors.
HWY_INLINE void store_lane_sums(const hn::Vec<decltype(kInts)> (&sums)[kOutputs], int32_t* totals) {
  const hn::RepartitionToWide<decltype(kInts)> pairs;
  const hn::FixedTag<int32_t, 4> block;
  constexpr int64_t kIntLanes = kLanes / 2;
  const auto neighbours = [](auto a, auto b) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(kInts, a, b), hn::InterleaveUpper(kInts, a, b));
  };
  const auto ab = hn::BitCast(pairs, neighbours(sums[0], sums[1]));
  const auto cd = hn::BitCast(pairs, neighbours(sums[2], sums[3]));
  const auto blocks = hn::Add(hn::BitCast(kInts, hn::InterleaveLower(pairs, ab, cd)),
                              hn::BitCast(kInts, hn::InterleaveUpper(pairs, ab, cd)));
  HWY_ALIGN int32_t stored[kIntLanes];
  hn::Store(blocks, kInts, stored);
  auto total = hn::Load(block, stored);
  for (int64_t b = 4; b < kIntLanes; b += 4) total = hn::Add(total, hn::Load(block, stored + b));
  hn::StoreU(total, block, totals);
}

/// Places of a row's totals of a block, and room for what tiles write beyond.
constexpr int64_t kTotals = kBlock + kOutputs;

/// totals[r * kTotals + o] = the sum over `count` columns.
template <int kRows>
HWY_NOINLINE void tile(const int16_t* x, int64_t x_stride, int64_t count, const int8_t* w, int64_t w_stride,
                       int32_t* totals) {
  hn::Vec<decltype(kInts)> sums[kRows][kOutputs], more[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) sums[r][o] = more[r][o] = hn::Zero(kInts);
  HWY_ALIGN int8_t rest[kOutputs][kLanes];
  for (int64_t i = 0; i < count; i += kLanes, x += kLanes, w += kLanes) {
    if (i + kLanes > count) {
      for (int64_t o = 0; o < kOutputs; ++o)
        for (int64_t j = 0; j < kLanes; ++j) rest[o][j] = i + j < count ? w[o * w_stride + j] : int8_t{0};
      w = rest[0];
      w_stride = kLanes;
    }
    hn::Vec<decltype(kShorts)> wide[kOutputs];
    for (int o = 0; o < kOutputs; ++o) wide[o] = hn::PromoteTo(kShorts, hn::LoadU(kBytes, w + o * w_stride));
    for (int r = 0; r < kRows; ++r) {
      const auto values = hn::LoadU(kShorts, x + r * x_stride);
      for (int o = 0; o < kOutputs; ++o)
        sums[r][o] = hn::ReorderWidenMulAccumulate(kInts, wide[o], values, sums[r][o], more[r][o]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kOutputs; ++o) sums[r][o] = hn::Add(sums[r][o], more[r][o]);
    store_lane_sums(sums[r], totals + r * kTotals);
  }
}

template <int kRows>
void rows_of_block(const NarrowRange& range, int64_t row, int64_t first, int64_t count) {
  const int64_t in = range.in, x_stride = row_bytes(in) / 2, stride = range.weight_stride;
  const char* operand = range.operand + row * row_bytes(in);
  const auto* weight = static_cast<const int8_t*>(range.weight) + first * stride;
  HWY_ALIGN int32_t totals[kRows * kTotals] = {};
  HWY_ALIGN float y[kRows * kBlock] = {};
  for (int64_t r = 0; r < kRows; ++r) prefetch_outputs(range.out + (row + r) * range.out_stride + first, count);
  for (int64_t chunk = 0; chunk < chunks_of(in); ++chunk) {
    const auto* x = reinterpret_cast<const int16_t*>(operand) + chunk * kChunk;
    const int64_t columns = chunk_columns(in, chunk);
    const int8_t* w = weight + chunk * kChunk;
    int64_t o = 0;
    for (; o + kOutputs <= count; o += kOutputs) tile<kRows>(x, x_stride, columns, w + o * stride, stride, totals + o);
    for (; o < count; ++o)  // the same output as often as a tile has outputs
      tile<kRows>(x, x_stride, columns, w + o * stride, 0, totals + o);
    for (int64_t r = 0; r < kRows; ++r)
      add_chunk<kBlock>(totals + r * kTotals, scales_of(operand + r * row_bytes(in), in)[chunk], y + r * kBlock);
  }
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t o = 0; o < count; ++o)
      range.out[(row + r) * range.out_stride + first + o] = y[r * kBlock + o] * range.scales[first + o];
}

void multiply(const NarrowRange& range) {
  for (int64_t first = range.begin; first < range.end; first += kBlock) {
    const int64_t count = range.end - first < kBlock ? range.end - first : kBlock;
    int64_t row = 0;
    for (; row + kRowsMax <= range.rows; row += kRowsMax) rows_of_block<kRowsMax>(range, row, first, count);
    if (row < range.rows) rows_of_block<1>(range, row, first, count);
  }
}

}  // namespace

extern const NarrowProduct CBTM_SIMD_TABLE;
const NarrowProduct CBTM_SIMD_TABLE = {operand_bytes, prepare, multiply};

}  // namespace cbtm::cpu
HWY_AFTER_NAMESPACE();
