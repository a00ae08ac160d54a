// Linear layers of a few rows of 16-bit activations: what decoding does. The weights are read once, and that is all the
// time it takes; products are on the tensor cores, so that neither float32 arithmetic nor the activations stand in the
// way of the reading.

#include <algorithm>

#include "decode_linear.h"
#include "decode_linear_mma_steps.cuh"
#include "dispatch.h"
#include "elements.cuh"
#include "mma.cuh"
#include "runtime/check.h"
#include "widen_pairs.cuh"

namespace cbtm::cuda {
namespace {

/// Scales from row to row in shared memory: one row after another, as they are written, where the 8 rows that are read
/// together then lie in different banks, that is where a row is not a multiple of 4 times 8 bytes long.
__device__ int scale_pitch(int64_t groups) {
  const int quads = static_cast<int>((min(groups, int64_t{kScaleGroups}) + 3) / 4);
  return 4 * (quads % 4 == 0 ? quads + 1 : quads);
}

/// The block copies the scales of kRows rows, kScaleGroups groups from `group` on; zeros beyond the matrix.
template <int kRows, bool kWhole>
__device__ void load_scales(const Params& p, int64_t first_row, int64_t group, int pitch, f16* shared) {
  const int64_t groups = (p.in + kInt4Group - 1) / kInt4Group;
  const int quads = static_cast<int>((min(groups - group, int64_t{kScaleGroups}) + 3) / 4);
  for (int place = static_cast<int>(threadIdx.x); place < kRows * quads; place += kThreads) {
    const int row = place / quads, quad = place % quads * 4;
    const bool exists = first_row + row < p.out;
    const f16* from =
        static_cast<const f16*>(p.scales) + (exists ? (first_row + row) * p.scales_stride + group + quad : 0);
    const int available = exists ? static_cast<int>(min(groups - group - quad, int64_t{4})) : 0;
    uint2 loaded = {0, 0};
    if constexpr (kWhole) {
      if (exists) loaded = *reinterpret_cast<const uint2*>(from);
    } else {
      loaded = load_packed<f16, 4>(from, available, p.scales_aligned).word;
    }
    // As one number, for a uint2 may be stored as two words, each with a place between its neighbours.
    *reinterpret_cast<uint64_t*>(shared + row * pitch + quad) = uint64_t{loaded.y} << 32 | loaded.x;
  }
}

/// Whether two blocks' registers fit a multiprocessor, with none spilled.
template <typename Element, typename Weight>
constexpr bool two_blocks_fit(int tiles, int row_tiles) {
  return row_tiles == 1 && tiles <= (std::is_same_v<Weight, Element> ? 4 : std::is_same_v<Weight, int8_t> ? 2 : 1);
}

// output[r][o] = activation(scale[o] * Σ_i input[r][i] weight[o][i] + bias[o]), or of int4 weights
//                activation(Σ_group scale[o][group] * Σ_i input[r][i] weight[o][i] + bias[o]).
//
// mapping   a block 16 kTiles rows of the weights and all rows of the input, at most 8 kRowTiles; its 8 warps take
//           steps along the columns in turn, 64 bytes of each row of the weights: 16 bytes a lane, as two of an mma's
//           four left registers a row. The next steps' weights are asked for before these are used. At the end
//           the warps' sums are added through shared memory.
// bytes     out * in * weight size and the scales, once; rows * in * 2 of the activations a block, from the cache.
// numerics  products exact, float32 sums: a warp's in the tensor cores' order, then the warps' in turn. A row's result
//           does not depend on the other rows, nor on kTiles and kRowTiles.
template <typename Element, typename Weight, bool kWhole, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, two_blocks_fit<Element, Weight>(kTiles, kRowTiles) ? 2 : 1)
    decode_linear_mma(Params p) {
  constexpr bool kInt4 = std::is_same_v<Weight, Int4>;
  // The sums of 32 rows and int4 weights leave registers for those of one step.
  constexpr int kDepth = kInt4 && kTiles > 1 && kRowTiles > 2 ? 1 : kAsked / kTiles;
  constexpr int kStepsOfScales = kScaleGroups * static_cast<int>(kInt4Group) / kStepColumns<Int4>;
  static_assert(kStepsOfScales % (kDepth * kWarps) == 0, "scales last for whole rounds");
  __shared__ float warp_sums[kWarps][kTiles][kTileRows][kSumPitch];
  __shared__ alignas(8) f16 scales[kInt4 ? kTiles * kTileOutputs * kScalePitchMax : 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / kLanes, t = lane % kLanes;
  const int64_t first_output = static_cast<int64_t>(blockIdx.x) * kTiles * kTileOutputs;
  const int64_t steps = (p.in + kStepColumns<Weight> - 1) / kStepColumns<Weight>;
  const int pitch = kInt4 ? scale_pitch((p.in + kInt4Group - 1) / kInt4Group) : 0;
  const auto ask = [&](int64_t step, uint4(&words)[kTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        words[tile][half] = load_weights<Weight, kWhole>(p, first_output + tile * kTileOutputs + half * 8 + g,
                                                         step * kStepColumns<Weight> + t * kLaneColumns<Weight>);
  };
  Sums<kRowTiles> sums[kTiles] = {};
  uint4 asked[kDepth][kTiles][2];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) ask(warp + d * kWarps, asked[d]);
  for (int64_t round = 0; round < steps; round += kDepth * kWarps) {
    if constexpr (kInt4)
      if (round % kStepsOfScales == 0) {
        __syncthreads();
        load_scales<kTiles * kTileOutputs, kWhole>(p, first_output, round * kLanes, pitch, scales);
        __syncthreads();
      }
    uint4 words[kDepth][kTiles][2];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half) words[d][tile][half] = asked[d][tile][half];
      ask(round + warp + (kDepth + d) * kWarps, asked[d]);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int64_t step = round + warp + d * kWarps;
      if (step >= steps) break;
      const int64_t column = step * kStepColumns<Weight>;
      if constexpr (kInt4)
        multiply_int4_step<Element, kWhole, kTiles, kRowTiles>(p, column, words[d],
                                                               scales + step % kStepsOfScales * kLanes, pitch, sums);
      else
        multiply_step<Element, Weight, kWhole, kTiles, kRowTiles>(p, column, words[d], sums);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    if (r > 0) __syncthreads();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e) warp_sums[warp][tile][2 * t + e % 2][g + e / 2 * 8] = sums[tile][r][e];
    __syncthreads();
    for (int place = static_cast<int>(threadIdx.x); place < kTiles * kTileRows * kTileOutputs; place += kThreads) {
      // A warp has rows i and i + 4, whose banks differ.
      const int tile = place / (kTileRows * kTileOutputs), output = place % kTileOutputs;
      const int tile_row = place / 32 % 4 + place / kTileOutputs % 2 * 4, row = r * kTileRows + tile_row;
      const int64_t column = first_output + tile * kTileOutputs + output;
      if (row >= p.rows || column >= p.out) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += warp_sums[w][tile][tile_row][output];
      // One rounding in every instance: the compiler does not choose.
      const float scale = std::is_same_v<Weight, int8_t> ? static_cast<const float*>(p.scales)[column] : 1.0f;
      sum = fmaf(sum, scale, bias_of<Element>(p, column));
      if (p.relu) sum = fmaxf(sum, 0.0f);
      if (p.output_f32)
        static_cast<float*>(p.output)[row * p.output_stride + column] = sum;
      else
        static_cast<Element*>(p.output)[row * p.output_stride + column] = narrowed<Element>(sum);
    }
  }
}

template <typename Element, typename Weight, int kTiles, int kRowTiles, bool kWhole = true>
void launch(Context& context, const Params& p) {
  const auto blocks = static_cast<unsigned>(ceil_divide(p.out, kTiles * kTileOutputs));
  decode_linear_mma<Element, Weight, kWhole, kTiles, kRowTiles><<<blocks, kThreads, 0, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("decode_linear_mma");
}

/// As many rows of the weights a block as leave a block for every second multiprocessor: the activations are read once
/// a block, and with 32 KiB of weights asked for in each, half of the multiprocessors keep the memory busy.
int tiles_for(int64_t out, int sm_count, int tiles_max) {
  for (int tiles = tiles_max; tiles > 1; tiles /= 2)
    if (2 * ceil_divide(out, tiles * kTileOutputs) >= sm_count) return tiles;
  return 1;
}

template <typename Element, typename Weight>
void launch_tiles(Context& context, const Params& p) {
  // One instance for operands that no real model has: its accesses by element are too much code for a hot loop.
  if (!is_whole<Weight>(p)) return launch<Element, Weight, 1, 4, /*kWhole=*/false>(context, p);
  if (p.rows <= kTileRows) {
    switch (tiles_for(p.out, context.sm_count, 4)) {
      case 4: return launch<Element, Weight, 4, 1>(context, p);
      case 2: return launch<Element, Weight, 2, 1>(context, p);
      default: return launch<Element, Weight, 1, 1>(context, p);
    }
  }
  const bool two_tiles = tiles_for(p.out, context.sm_count, 2) == 2;
  if (p.rows <= 2 * kTileRows)
    return two_tiles ? launch<Element, Weight, 2, 2>(context, p) : launch<Element, Weight, 1, 2>(context, p);
  return two_tiles ? launch<Element, Weight, 2, 4>(context, p) : launch<Element, Weight, 1, 4>(context, p);
}

}  // namespace

bool decode_linear_mma_applies(const LinearForward& arguments, int compute_capability) {
  const auto& a = arguments;
  const bool quantised = a.int8_weights() || a.int4_weights();
  if (a.input.dtype == DType::f32 || (!quantised && a.weight.dtype != a.input.dtype)) return false;
  if (a.input.dtype == DType::bf16 && compute_capability < 80) return false;  // no such tensor cores
  return a.input.rows <= (quantised ? 4 * kTileRows : kTileRows);
}

void decode_linear_mma(Context& context, const LinearForward& arguments) {
  const auto& a = arguments;
  const Params p = linear_params(a);
  const auto launch_element = [&]<typename Element>() {
    if (a.int8_weights()) return launch_tiles<Element, int8_t>(context, p);
    if (a.int4_weights()) return launch_tiles<Element, Int4>(context, p);
    launch_tiles<Element, Element>(context, p);
  };
  if (a.input.dtype == DType::bf16) return launch_element.operator()<bf16>();
  launch_element.operator()<f16>();
}

}  // namespace cbtm::cuda
