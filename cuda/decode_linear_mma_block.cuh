// What a block of decode_linear_mma.cu does: some rows of the weights times all rows of the input.

#pragma once

#include "decode_linear_mma_steps.cuh"

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

/// Shared memory of decode_linear_block.
template <typename Weight, int kTiles>
struct DecodeShared {
  float warp_sums[kWarps][kTiles][kTileRows][kSumPitch];
  alignas(8) uint16_t scales[std::is_same_v<Weight, Int4> ? kTiles * kTileOutputs * kScalePitchMax : 1];  ///< f16
};

/// Calls write(row, output, sum) for every row of the input, at most 8 kRowTiles, and 16 kTiles outputs from
/// `first_output` on, as far as they exist, where
///   sum = scale[output] * Σ_i input[row][i] weight[output][i] + bias[output]
/// and with int4 weights each group has its own scale. All threads of the block call it, and they synchronise before
/// they call it again. The bits of a sum do not depend on the other rows, nor on kTiles and kRowTiles.
template <typename Element, typename Weight, bool kWhole, int kTiles, int kRowTiles, typename Write>
__device__ __forceinline__ void decode_linear_block(const Params& p, int64_t first_output,
                                                    DecodeShared<Weight, kTiles>& shared, const Write& write) {
  constexpr bool kInt4 = std::is_same_v<Weight, Int4>;
  // The sums of 32 rows and int4 weights leave registers for those of one step.
  constexpr int kDepth = kInt4 && kTiles > 1 && kRowTiles > 2 ? 1 : kAsked / kTiles;
  constexpr int kStepsOfScales = kScaleGroups * static_cast<int>(kInt4Group) / kStepColumns<Int4>;
  static_assert(kStepsOfScales % (kDepth * kWarps) == 0, "scales last for whole rounds");
  auto& warp_sums = shared.warp_sums;
  [[maybe_unused]] f16* const scales = reinterpret_cast<f16*>(shared.scales);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / kLanes, t = lane % kLanes;
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
      write(row, column, fmaf(sum, scale, bias_of<Element>(p, column)));
    }
  }
}

/// Writes one element of the output.
template <typename Element>
__device__ __forceinline__ void write_output(const Params& p, int row, int64_t column, float value) {
  if (p.output_f32)
    static_cast<float*>(p.output)[row * p.output_stride + column] = value;
  else
    static_cast<Element*>(p.output)[row * p.output_stride + column] = narrowed<Element>(value);
}

}  // namespace
}  // namespace cbtm::cuda
