// A tile of quantised_linear.cu: int8 or int4 weights times many rows of 16-bit activations.

#pragma once

#include <type_traits>

#include "async_copy.cuh"
#include "decode_linear_mma_steps.cuh"

namespace cbtm::cuda {
namespace {

constexpr int kOutputWarps = 4;  ///< warps of a block side by side along the outputs
constexpr int kRowWarps = kWarps / kOutputWarps;

/// A block's tile: kOutputTiles x kRowTiles products of 16 outputs and 8 rows a warp. Activations of a step lie in
/// shared memory row after row in chunks of 8, chunk c of row r in place c ^ swizzle(r): the chunks that lanes read
/// together, two rows' of int8's step (16 bytes a lane) or four rows' of int4's (8 bytes), lie in different banks.
template <typename Weight, int kOutputTiles, int kRowTiles>
struct QuantisedTile {
  static constexpr int kOutputs = kOutputWarps * kOutputTiles * kTileOutputs;
  static constexpr int kRows = kRowWarps * kRowTiles * kTileRows;
  static constexpr int kColumns = kStepColumns<Weight>;
  static constexpr int kChunks = kColumns / 8;
  static constexpr int kStage = kRows * kColumns;
  static constexpr int kResultPitch = kOutputs + 8;  ///< of the results, before they are written row by row
  static constexpr int kSharedBytes = 2 * (2 * kStage > kRows * kResultPitch ? 2 * kStage : kRows * kResultPitch);

  __device__ static int place(int row, int chunk) {
    const int swizzle = std::is_same_v<Weight, Int4> ? row % 4 * 2 : row % 8;
    return row * kColumns + (chunk ^ swizzle) * 8;
  }
};

/// What a lane needs of the weights for a step: 16 bytes of rows g and g + 8 of each tile; of int4 weights the scales
/// of the step's four groups too.
template <typename Weight, int kOutputTiles>
struct StepWeights {
  uint4 words[kOutputTiles][2];
  uint2 scales[std::is_same_v<Weight, Int4> ? kOutputTiles : 1][2];  ///< f16

  __device__ void load(const Params& p, int64_t first_output, int64_t step) {
    const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
    constexpr bool kInt4 = std::is_same_v<Weight, Int4>;
    const int64_t column = step * kStepColumns<Weight> + t * kLaneColumns<Weight>;
    const int64_t byte = kInt4 ? column / kInt4Group * kInt4GroupBytes : column;
#pragma unroll
    for (int tile = 0; tile < kOutputTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = first_output + tile * kTileOutputs + half * 8 + g;
        const bool exists = row < p.out && column < p.in;
        words[tile][half] =
            exists ? *reinterpret_cast<const uint4*>(static_cast<const char*>(p.weight) + row * p.weight_stride + byte)
                   : uint4{0, 0, 0, 0};
        if constexpr (kInt4)
          scales[tile][half] = exists ? *reinterpret_cast<const uint2*>(static_cast<const f16*>(p.scales) +
                                                                        row * p.scales_stride + step * kLanes)
                                      : uint2{0, 0};
      }
  }
};

/// sums += a step of int8 weights times the activations in shared memory, from the warp's row `row` on.
template <typename Element, typename Tile, int kOutputTiles, int kRowTiles>
__device__ __forceinline__ void multiply_quantised(const StepWeights<int8_t, kOutputTiles>& weights,
                                                   const Element* activations, int row,
                                                   Sums<kRowTiles> (&sums)[kOutputTiles]) {
  const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t left[kOutputTiles][4][4];
#pragma unroll
  for (int tile = 0; tile < kOutputTiles; ++tile) {
    const uint4 low = weights.words[tile][0], high = weights.words[tile][1];
    const uint32_t low_words[4] = {low.x, low.y, low.z, low.w}, high_words[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t low_pairs[2], high_pairs[2];
      widen_int8<Element>(low_words[i], low_pairs);
      widen_int8<Element>(high_words[i], high_pairs);
      left[tile][i][0] = low_pairs[0], left[tile][i][1] = high_pairs[0];
      left[tile][i][2] = low_pairs[1], left[tile][i][3] = high_pairs[1];
    }
  }
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // columns 16 t + 8 half on
      const uint4 pairs =
          *reinterpret_cast<const uint4*>(activations + Tile::place(row + kTileRows * r + g, 2 * t + half));
#pragma unroll
      for (int tile = 0; tile < kOutputTiles; ++tile) {
        mma::multiply<TensorElement<Element>>(sums[tile][r], left[tile][2 * half], pairs.x, pairs.y);
        mma::multiply<TensorElement<Element>>(sums[tile][r], left[tile][2 * half + 1], pairs.z, pairs.w);
      }
    }
}

/// The same of int4 weights: a group's sum is scaled before it joins.
template <typename Element, typename Tile, int kOutputTiles, int kRowTiles>
__device__ __forceinline__ void multiply_quantised(const StepWeights<Int4, kOutputTiles>& weights,
                                                   const Element* activations, int row,
                                                   Sums<kRowTiles> (&sums)[kOutputTiles]) {
  const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t codes[kOutputTiles][2][4];
  uint2 scale_words[kOutputTiles][2];
#pragma unroll
  for (int tile = 0; tile < kOutputTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 word = weights.words[tile][half];
      codes[tile][half][0] = word.x, codes[tile][half][1] = word.y;
      codes[tile][half][2] = word.z, codes[tile][half][3] = word.w;
      transpose_among_four(codes[tile][half], t);
      scale_words[tile][half] = weights.scales[tile][half];
    }
#pragma unroll 1  // the activations of four groups, loaded ahead, would cost the registers that the sums need
  for (int group = 0; group < kLanes; ++group) {
    uint32_t left[kOutputTiles][2][4];  // columns 4 t on, and those 16 further
    float scales[kOutputTiles][2];
#pragma unroll
    for (int tile = 0; tile < kOutputTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        scales[tile][half] = widened(f16{static_cast<uint16_t>(scale_words[tile][half].x)});
      }
#pragma unroll
    for (int tile = 0; tile < kOutputTiles; ++tile)
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        uint32_t low[2], high[2];
        widen_int4<Element>(codes[tile][0][0] >> 4 * part & 0x0f0f0f0fu, low);
        widen_int4<Element>(codes[tile][1][0] >> 4 * part & 0x0f0f0f0fu, high);
        left[tile][part][0] = low[0], left[tile][part][1] = high[0];
        left[tile][part][2] = low[1], left[tile][part][3] = high[1];
      }
#pragma unroll
    for (int tile = 0; tile < kOutputTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // the next group's come first
        uint32_t(&code)[4] = codes[tile][half];
        code[0] = code[1], code[1] = code[2], code[2] = code[3];
        uint2& scale = scale_words[tile][half];
        scale = {scale.x >> 16 | scale.y << 16, scale.y >> 16};
      }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      uint2 pairs[2];
#pragma unroll
      for (int part = 0; part < 2; ++part)
        pairs[part] = *reinterpret_cast<const uint2*>(
            activations + Tile::place(row + kTileRows * r + g, 4 * group + 2 * part + t / 2) + t % 2 * 4);
#pragma unroll
      for (int tile = 0; tile < kOutputTiles; ++tile) {
        float group_sums[4] = {};
        mma::multiply<TensorElement<Element>>(group_sums, left[tile][0], pairs[0].x, pairs[0].y);
        mma::multiply<TensorElement<Element>>(group_sums, left[tile][1], pairs[1].x, pairs[1].y);
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[tile][r][e] = fmaf(scales[tile][e / 2], group_sums[e], sums[tile][r][e]);
      }
    }
  }
}

/// Writes output[row][o] = activate(scale[o] * Σ_i input[row][i] weight[o][i] + bias[o]) for the tile's rows from
/// `block_row` and outputs from `block_output` on; with int4 weights each group has its own scale. `shared` holds
/// Tile::kSharedBytes. All threads of the block call it, and they synchronise before they use that memory again. The
/// bits of a row depend on neither the other rows nor the size of the tile.
template <typename Element, typename Weight, int kOutputTiles, int kRowTiles, typename Activate>
__device__ __forceinline__ void quantised_linear_tile(const Params& p, int block_row, int64_t block_output,
                                                      unsigned char* shared, const Activate& activate) {
  using Tile = QuantisedTile<Weight, kOutputTiles, kRowTiles>;
  Element* const stages = reinterpret_cast<Element*>(shared);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / kLanes, t = lane % kLanes;
  const int warp_output = warp % kOutputWarps * kOutputTiles * kTileOutputs;
  const int warp_row = warp / kOutputWarps * kRowTiles * kTileRows;
  const auto steps = static_cast<int>((p.in + Tile::kColumns - 1) / Tile::kColumns);
  const Element* const input = static_cast<const Element*>(p.input) + block_row * p.input_stride;
  const auto copy_activations = [&](int step, int stage) {
#pragma unroll 4
    for (int index = static_cast<int>(threadIdx.x); index < Tile::kRows * Tile::kChunks; index += kThreads) {
      const int row = index / Tile::kChunks, chunk = index % Tile::kChunks;
      const int64_t column = int64_t{step} * Tile::kColumns + chunk * 8;
      const bool inside = block_row + row < p.rows && column < p.in;
      mma::copy_16(stages + stage * Tile::kStage + Tile::place(row, chunk),
                   input + (inside ? row * p.input_stride + column : 0), inside);
    }
  };

  copy_activations(0, 0);
  StepWeights<Weight, kOutputTiles> asked;
  asked.load(p, block_output + warp_output, 0);
  Sums<kRowTiles> sums[kOutputTiles] = {};
  for (int step = 0, stage = 0; step < steps; ++step, stage ^= 1) {
    mma::wait_for_copies();
    __syncthreads();  // the stage has arrived, and the other one has been used by all warps
    if (step + 1 < steps) copy_activations(step + 1, stage ^ 1);
    const StepWeights<Weight, kOutputTiles> weights = asked;
    if (step + 1 < steps) asked.load(p, block_output + warp_output, step + 1);
    multiply_quantised<Element, Tile>(weights, stages + stage * Tile::kStage, warp_row, sums);
  }

  __syncthreads();  // the stages become the results' place
#pragma unroll
  for (int tile = 0; tile < kOutputTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int output = warp_output + tile * kTileOutputs + half * 8 + g;
      const int64_t column = block_output + output;
      const float scale = !std::is_same_v<Weight, int8_t> ? 1.0f
                          : column < p.out                ? static_cast<const float*>(p.scales)[column]
                                                          : 0.0f;
      const float bias = column < p.out ? bias_of<Element>(p, column) : 0.0f;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = warp_row + r * kTileRows + 2 * t + e;
          const float sum = activate(fmaf(sums[tile][r][2 * half + e], scale, bias));
          if (!p.output_f32)
            stages[row * Tile::kResultPitch + output] = narrowed<Element>(sum);
          else if (block_row + row < p.rows && column < p.out)
            static_cast<float*>(p.output)[(block_row + row) * p.output_stride + column] = sum;
        }
    }
  if (p.output_f32) return;
  __syncthreads();
  constexpr int kResultChunks = Tile::kOutputs / 8;
  for (int index = static_cast<int>(threadIdx.x); index < Tile::kRows * kResultChunks; index += kThreads) {
    const int row = index / kResultChunks, output = index % kResultChunks * 8;
    const int64_t column = block_output + output;
    if (block_row + row >= p.rows || column >= p.out) continue;
    const Element* const from = stages + row * Tile::kResultPitch + output;
    Element* const to = static_cast<Element*>(p.output) + (block_row + row) * p.output_stride + column;
    if (p.output_aligned && column + 8 <= p.out) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int i = 0; i < min(p.out - column, int64_t{8}); ++i) to[i] = from[i];
    }
  }
}

}  // namespace
}  // namespace cbtm::cuda
