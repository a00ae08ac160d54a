// What a warp of decode_linear_mma.cu does in a step: weights and activations into registers, and their products.

#pragma once

#include "decode_linear.h"
#include "dispatch.h"
#include "elements.cuh"
#include "mma.cuh"
#include "widen_pairs.cuh"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileOutputs = 16;   ///< rows of the weights in a tile: the rows of an mma's left operand
constexpr int kTileRows = 8;       ///< rows of activations in a tile: its columns
constexpr int kLanes = 4;          ///< lanes that share a row of the weights, 16 bytes of it each
constexpr int kAsked = 4;          ///< tiles and steps whose weights a warp asks for together, before it uses the last
constexpr int kScaleGroups = 128;  ///< groups of int4 weights whose scales are in shared memory at a time
constexpr int kScalePitchMax = kScaleGroups + 4;
constexpr int kSumPitch = kTileOutputs + 4;  ///< so that a warp's sums do, written by mma's lanes or read by rows

struct Params {
  const void* __restrict__ input;
  int64_t input_stride;
  bool input_aligned;  ///< every row starts at a multiple of 16 bytes
  const void* __restrict__ weight;
  int64_t weight_stride;
  bool weight_aligned;              ///< as input_aligned
  const void* __restrict__ scales;  ///< float32, one a row of int8 weights; float16, one a group of int4 weights
  int64_t scales_stride;            ///< of int4 weights
  bool scales_aligned;              ///< rows of them start at multiples of 8 bytes
  const void* __restrict__ bias;    ///< or null
  bool bias_f32, output_f32;        ///< else of the input's type
  bool relu;
  void* __restrict__ output;
  int64_t output_stride;
  bool output_aligned;  ///< as input_aligned
  int rows;
  int64_t in, out;
};

inline Params linear_params(const LinearForward& a) {
  return {.input = a.input.data,
          .input_stride = a.input.row_stride,
          .input_aligned = rows_aligned(a.input, 16),
          .weight = a.weight.data,
          .weight_stride = a.weight.row_stride,
          .weight_aligned = rows_aligned(a.weight, 16),
          .scales = a.weight_scales.data,
          .scales_stride = a.weight_scales.row_stride,
          .scales_aligned = rows_aligned(a.weight_scales, 8),
          .bias = a.bias.data,
          .bias_f32 = a.bias.dtype == DType::f32,
          .output_f32 = a.output.dtype == DType::f32,
          .relu = a.activation == Activation::relu,
          .output = a.output.data,
          .output_stride = a.output.row_stride,
          .output_aligned = rows_aligned(a.output, 16),
          .rows = static_cast<int>(a.input.rows),
          .in = a.input.columns,
          .out = a.weight.rows};
}

/// Of an output; 0 without a bias.
template <typename Element>
__device__ float bias_of(const Params& p, int64_t output) {
  if (p.bias == nullptr) return 0;
  return p.bias_f32 ? static_cast<const float*>(p.bias)[output] : widened(static_cast<const Element*>(p.bias)[output]);
}

/// int4 weights: 16 bytes are a group (device.h, kInt4Group).
struct Int4 {};

/// Columns of a row that lie in 16 bytes, what a lane takes in a step.
template <typename Weight>
constexpr int kLaneColumns = 16 / static_cast<int>(sizeof(Weight));
template <>
constexpr int kLaneColumns<Int4> = static_cast<int>(kInt4Group);
template <typename Weight>
constexpr int kStepColumns = kLanes* kLaneColumns<Weight>;

template <typename Element>
using TensorElement = std::conditional_t<std::is_same_v<Element, bf16>, __nv_bfloat16, __half>;

/// Whether operands are whole: they start at multiples of an access, and the columns are a multiple of what a lane
/// takes in a step (of int4 weights: all lanes, whose scales are loaded together). Those of every real model are.
template <typename Weight>
bool is_whole(const Params& p) {
  return p.input_aligned && p.weight_aligned && p.scales_aligned &&
         p.in % (std::is_same_v<Weight, Int4> ? kStepColumns<Weight> : kLaneColumns<Weight>) == 0;
}

/// A lane's 16 bytes of a row of the weights, from `column` on; zeros beyond the matrix.
template <typename Weight, bool kWhole>
__device__ uint4 load_weights(const Params& p, int64_t row, int64_t column) {
  if (row >= p.out || column >= p.in) return {0, 0, 0, 0};
  if constexpr (std::is_same_v<Weight, Int4>) {
    // Read once: not worth a place in the cache.
    return __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(p.weight) + row * p.weight_stride +
                                                 column / kInt4Group * kInt4GroupBytes));
  } else {
    const Weight* from = static_cast<const Weight*>(p.weight) + row * p.weight_stride + column;
    if (kWhole || (p.weight_aligned && p.in - column >= kLaneColumns<Weight>))
      return __ldcs(reinterpret_cast<const uint4*>(from));
    const int available = static_cast<int>(min(p.in - column, int64_t{kLaneColumns<Weight>}));
    return load_packed<Weight, kLaneColumns<Weight>>(from, available, /*aligned=*/false).word;
  }
}

/// kLength activations of a row, in pairs; zeros beyond the matrix.
template <typename Element, bool kWhole, int kLength>
__device__ void load_pairs(const Params& p, int row, int64_t column, uint32_t (&pairs)[kLength / 2]) {
  const bool exist = row < p.rows && column < p.in;
  const Element* from = static_cast<const Element*>(p.input) + (exist ? row * p.input_stride + column : 0);
  const int available = exist ? static_cast<int>(min(p.in - column, int64_t{kLength})) : 0;
  if constexpr (kWhole) {
    using Word = typename Packed<Element, kLength>::Word;
    const Word word = exist ? *reinterpret_cast<const Word*>(from) : Word{};
    memcpy(pairs, &word, sizeof pairs);
  } else {
    const auto loaded = load_packed<Element, kLength>(from, available, p.input_aligned);
    memcpy(pairs, &loaded.word, sizeof pairs);
  }
}

/// words[i] of lane t of four becomes words[t] of lane i.
__device__ void transpose_among_four(uint32_t (&words)[4], int t) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = (t & distance) != 0;
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if ((low & distance) != 0) continue;
      const int high = low + distance;
      const uint32_t received = __shfl_xor_sync(~0u, upper ? words[low] : words[high], distance);
      (upper ? words[low] : words[high]) = received;
    }
  }
}

/// Activations of lane t's columns of a step, those beside its 8 weights of 16 bits.
template <typename Element, bool kWhole>
__device__ void load_activations(const Params& p, int row, int64_t column, int t, uint32_t (&pairs)[4]) {
  load_pairs<Element, kWhole, 8>(p, row, column + 8 * t, pairs);
}
/// The same beside 16 weights of 8 bits. Two lanes load neighbouring 16 bytes, the even lane's 16 columns and then the
/// odd one's, and exchange halves: a lane's own 32 bytes, in two accesses, would be the same sectors twice.
template <typename Element, bool kWhole>
__device__ void load_activations(const Params& p, int row, int64_t column, int t, uint32_t (&pairs)[8]) {
  const int64_t first = column + t / 2 * 32 + t % 2 * 8;
  uint32_t even[4], odd[4];
  load_pairs<Element, kWhole, 8>(p, row, first, even);
  load_pairs<Element, kWhole, 8>(p, row, first + 16, odd);
  const bool is_odd = t % 2 == 1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t received = __shfl_xor_sync(~0u, is_odd ? even[i] : odd[i], 1);
    pairs[i] = is_odd ? received : even[i];
    pairs[4 + i] = is_odd ? odd[i] : received;
  }
}

template <int kRowTiles>
using Sums = float[kRowTiles][4];

/// sums += a tile's step of weights times the activations: k are a lane's own columns, wherever mma has them, and the
/// same ones left and right.
template <typename Element, typename Weight, bool kWhole, int kTiles, int kRowTiles>
__device__ void multiply_step(const Params& p, int64_t column, const uint4 (&words)[kTiles][2],
                              Sums<kRowTiles> (&sums)[kTiles]) {
  constexpr int kPairs = kLaneColumns<Weight> / 2;
  const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t activations[kRowTiles][kPairs];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
    load_activations<Element, kWhole>(p, kTileRows * r + g, column, t, activations[r]);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint32_t low[4] = {words[tile][0].x, words[tile][0].y, words[tile][0].z, words[tile][0].w};
    const uint32_t high[4] = {words[tile][1].x, words[tile][1].y, words[tile][1].z, words[tile][1].w};
#pragma unroll
    for (int i = 0; i < kPairs; i += 2) {
      uint32_t left[4];
      if constexpr (std::is_same_v<Weight, int8_t>) {
        uint32_t low_pairs[2], high_pairs[2];
        widen_int8<Element>(low[i / 2], low_pairs);
        widen_int8<Element>(high[i / 2], high_pairs);
        left[0] = low_pairs[0], left[1] = high_pairs[0], left[2] = low_pairs[1], left[3] = high_pairs[1];
      } else {
        left[0] = low[i], left[1] = high[i], left[2] = low[i + 1], left[3] = high[i + 1];
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
        mma::multiply<TensorElement<Element>>(sums[tile][r], left, activations[r][i], activations[r][i + 1]);
    }
  }
}

/// The same for int4 weights. A group's sum is scaled before it joins, so the lanes of a row first exchange words: each
/// then has 4 bytes of each of the step's four groups, that is columns 4 t to 4 t + 3 and, in the upper halves of the
/// bytes, those 16 further. `scales` are those of the tiles' rows, `pitch` apart, at the step's first group.
template <typename Element, bool kWhole, int kTiles, int kRowTiles>
__device__ void multiply_int4_step(const Params& p, int64_t column, const uint4 (&words)[kTiles][2], const f16* scales,
                                   int pitch, Sums<kRowTiles> (&sums)[kTiles]) {
  const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t codes[kTiles][2][4];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 word = words[tile][half];
      codes[tile][half][0] = word.x, codes[tile][half][1] = word.y;
      codes[tile][half][2] = word.z, codes[tile][half][3] = word.w;
      transpose_among_four(codes[tile][half], t);
    }
#pragma unroll
  for (int group = 0; group < kLanes; ++group) {
    uint32_t activations[kRowTiles][2][2];  // of columns 4 t on, and of those 16 further
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int part = 0; part < 2; ++part)
        load_pairs<Element, kWhole, 4>(p, kTileRows * r + g, column + group * kInt4Group + 16 * part + 4 * t,
                                       activations[r][part]);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float group_sums[kRowTiles][4] = {};
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        uint32_t low[2], high[2];
        widen_int4<Element>(codes[tile][0][group] >> 4 * part & 0x0f0f0f0fu, low);
        widen_int4<Element>(codes[tile][1][group] >> 4 * part & 0x0f0f0f0fu, high);
        const uint32_t left[4] = {low[0], high[0], low[1], high[1]};
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
          mma::multiply<TensorElement<Element>>(group_sums[r], left, activations[r][part][0], activations[r][part][1]);
      }
      const f16* row_scales = scales + (kTileOutputs * tile + g) * pitch + group;
      const float low_scale = widened(row_scales[0]), high_scale = widened(row_scales[8 * pitch]);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sums[tile][r][e] = fmaf(e < 2 ? low_scale : high_scale, group_sums[r][e], sums[tile][r][e]);
    }
  }
}

}  // namespace
}  // namespace cbtm::cuda
