// Linear layers of a mixture's experts in float32 arithmetic: models in float32, with weights of any type.

#include <algorithm>

#include "dispatch.h"
#include "f32_tile.cuh"
#include "moe/expert_epilogue.cuh"
#include "moe/expert_linear_f32.h"
#include "moe/expert_tiles.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 4;
constexpr int kResultPitch = kF32Tile + 4;

/// Element (row, column) of a matrix of weights.
template <typename Weight>
struct WeightReader {
  const Weight* data;
  int64_t stride;
  const float* scales;  ///< of int8: one per row
  __device__ float at(int64_t row, int column) const {
    const float value = widened(data[row * stride + column]);
    return std::is_same_v<Weight, int8_t> ? scales[row] * value : value;
  }
};
/// int4 weights (cbtm/device/linear_operands.h, kInt4Group).
struct Int4 {};
template <>
struct WeightReader<Int4> {
  const uint8_t* data;
  int64_t stride;
  const f16* scales;
  int64_t scales_stride;
  __device__ float at(int64_t row, int column) const {
    const int group = column / static_cast<int>(kInt4Group), inside = column % static_cast<int>(kInt4Group);
    const uint8_t codes = data[row * stride + group * kInt4GroupBytes + inside % kInt4GroupBytes];
    const int code = inside < kInt4GroupBytes ? codes & 15 : codes >> 4;
    return widened(scales[row * scales_stride + group]) * static_cast<float>(code - 8);
  }
};

template <typename Weight, typename Epilogue>
struct Params {
  const float* left;  ///< [2 * rows, depth]
  int64_t left_stride;
  WeightReader<Weight> weight;  ///< [experts * out, in]
  const int32_t* offsets;
  int experts, out;
  int columns, depth;  ///< of the result and of the sums
  Epilogue epilogue;
};

// forward          output[p][o] = activation(Σ_i input[p][i] weight_e[o][i] + bias_e[o])
// input gradient   gradient[p][i] = derivative * Σ_o output_gradient[p][o] weight_e[o][i]
//
// grid      as many blocks as run at a time; each takes tiles of 64 sorted rows of one expert and 64 columns in turn,
//           numbered from the offsets on the device (ExpertTiles, f32_tile.cuh)
// bytes     of each expert with rows: its weights once for every 64 of its rows, its rows once for every 64 columns;
//           once from memory, else from the L2
// numerics  float32 in the order of k; integers and their scale are multiplied first. A row's bits do not depend on
//           other rows.
template <bool kForward, typename Weight, typename Epilogue>
__global__ void __launch_bounds__(kF32Threads) expert_rows_product_f32(const Params<Weight, Epilogue> p) {
  __shared__ ExpertTiles::Shared tiles_shared;
  __shared__ union {
    F32TileShared operands;
    alignas(16) float results[kF32Tile][kResultPitch];
  } shared;
  const ExpertTiles tiles(p.offsets, p.experts, kF32Tile, tiles_shared);
  const int column_tiles = (p.columns + kF32Tile - 1) / kF32Tile;
  const int count = tiles.row_tiles() * column_tiles;
  for (auto number = static_cast<int>(blockIdx.x); number < count; number += static_cast<int>(gridDim.x)) {
    const ExpertTiles::Tile tile = tiles.tile(number, column_tiles);
    const int first_column = tile.column * kF32Tile;
    const int64_t first_weight = int64_t{tile.expert} * p.out;
    const float* const left = p.left + tile.first_row * p.left_stride;
    float sums[kF32Part][kF32Part] = {};
    f32_tile<true, kForward>([&](int l, int row) { return row < tile.rows ? left[row * p.left_stride + l] : 0.0f; },
                             [&](int l, int column) {
                               column += first_column;
                               if (column >= p.columns) return 0.0f;
                               return kForward ? p.weight.at(first_weight + column, l)
                                               : p.weight.at(first_weight + l, column);
                             },
                             p.depth, shared.operands, sums);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kF32Part; ++i)
#pragma unroll
      for (int j = 0; j < kF32Part; ++j) {
        const int column = first_column + f32_tile_column() + j;
        if constexpr (kForward)
          if (column < p.columns) sums[i][j] += p.epilogue.bias_at(first_weight + column);
        shared.results[f32_tile_row() + i][f32_tile_column() + j] = sums[i][j];
      }
    __syncthreads();
    constexpr int kRowParts = kF32Tile / kEpilogueColumns;
    for (auto index = static_cast<int>(threadIdx.x); index < tile.rows * kRowParts; index += kF32Threads) {
      const int row = index / kRowParts, inside = index % kRowParts * kEpilogueColumns;
      const int column = first_column + inside;
      if (column >= p.columns) continue;
      float values[kEpilogueColumns];
#pragma unroll
      for (int i = 0; i < kEpilogueColumns; ++i) values[i] = shared.results[row][inside + i];
      p.epilogue.write(tile.first_row + row, column, min(kEpilogueColumns, p.columns - column), values);
    }
    __syncthreads();  // the next tile's operands take the place of the results
  }
}

// weight_gradient_e[o][i] += Σ_p output_gradient[p][o] input[p][i] over the expert's sorted rows
//
// grid      one block per expert and 64 x 64 of its gradient; blocks of experts without rows touch nothing
// bytes     8 * out * in per expert with rows; its rows once for every 64 columns of the other operand
// numerics  float32, rows in order, added to what was there
__global__ void __launch_bounds__(kF32Threads)
    weight_gradient_f32(const float* __restrict__ output_gradient, int64_t output_gradient_stride,
                        const float* __restrict__ input, int64_t input_stride, const int32_t* __restrict__ offsets,
                        int out, int in, float* __restrict__ gradient, int64_t gradient_stride) {
  __shared__ F32TileShared shared;
  const int row_tiles = (out + kF32Tile - 1) / kF32Tile, column_tiles = (in + kF32Tile - 1) / kF32Tile;
  const auto number = static_cast<int>(blockIdx.x);
  const int expert = number / (row_tiles * column_tiles);
  const int first_row = number / column_tiles % row_tiles * kF32Tile, first_column = number % column_tiles * kF32Tile;
  const int begin = offsets[expert], rows = offsets[expert + 1] - begin;
  if (rows == 0) return;
  float sums[kF32Part][kF32Part] = {};
  f32_tile<false, false>(
      [&](int l, int row) {
        return first_row + row < out ? output_gradient[(begin + l) * output_gradient_stride + first_row + row] : 0.0f;
      },
      [&](int l, int column) {
        return first_column + column < in ? input[(begin + l) * input_stride + first_column + column] : 0.0f;
      },
      rows, shared, sums);
#pragma unroll
  for (int i = 0; i < kF32Part; ++i)
#pragma unroll
    for (int j = 0; j < kF32Part; ++j) {
      const int row = first_row + f32_tile_row() + i, column = first_column + f32_tile_column() + j;
      if (row < out && column < in) gradient[(int64_t{expert} * out + row) * gradient_stride + column] += sums[i][j];
    }
}

template <bool kForward, typename Weight, typename Epilogue>
void launch(Context& context, int64_t sorted_rows, const Params<Weight, Epilogue>& p) {
  const int64_t tiles = ExpertTiles::row_tiles_max(sorted_rows, p.experts, kF32Tile) * ceil_divide(p.columns, kF32Tile);
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(tiles, int64_t{kBlocksPerMultiprocessor} * context.sm_count));
  expert_rows_product_f32<kForward><<<blocks, kF32Threads, 0, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("expert_rows_product_f32");
}

template <typename Weight>
void forward(Context& context, const ExpertLinearForward& a, const WeightReader<Weight>& weight) {
  launch<true>(context, a.input.rows,
               Params<Weight, ForwardEpilogue<float>>{.left = a.input.as<float>(),
                                                      .left_stride = a.input.row_stride,
                                                      .weight = weight,
                                                      .offsets = a.offsets.as<int32_t>(),
                                                      .experts = static_cast<int>(a.experts()),
                                                      .out = static_cast<int>(a.out()),
                                                      .columns = static_cast<int>(a.out()),
                                                      .depth = static_cast<int>(a.input.columns),
                                                      .epilogue = forward_epilogue<float>(a)});
}

}  // namespace

void expert_forward_f32(Context& context, const ExpertLinearForward& a) {
  const int64_t stride = a.weight.row_stride;
  if (a.weight.dtype == DType::i8)
    return forward(context, a, WeightReader<int8_t>{a.weight.as<int8_t>(), stride, a.weight_scales.as<float>()});
  if (a.weight.dtype == DType::u8)
    return forward(
        context, a,
        WeightReader<Int4>{a.weight.as<uint8_t>(), stride, a.weight_scales.as<f16>(), a.weight_scales.row_stride});
  dispatch_floating(a.weight.dtype, [&]<typename Weight>() {
    forward(context, a, WeightReader<Weight>{a.weight.as<Weight>(), stride, nullptr});
  });
}

void expert_input_gradient_f32(Context& context, const ExpertLinearBackward& a) {
  launch<false>(context, a.input.rows,
                Params<float, BackwardEpilogue<float>>{
                    .left = a.output_gradient.as<float>(),
                    .left_stride = a.output_gradient.row_stride,
                    .weight = WeightReader<float>{a.weight.as<float>(), a.weight.row_stride, nullptr},
                    .offsets = a.offsets.as<int32_t>(),
                    .experts = static_cast<int>(a.experts()),
                    .out = static_cast<int>(a.out()),
                    .columns = static_cast<int>(a.input.columns),
                    .depth = static_cast<int>(a.out()),
                    .epilogue = backward_epilogue<float>(a)});
}

void expert_weight_gradient_f32(Context& context, const ExpertLinearBackward& a) {
  const auto out = static_cast<int>(a.out()), in = static_cast<int>(a.input.columns);
  const int64_t blocks = a.experts() * ceil_divide(out, kF32Tile) * ceil_divide(in, kF32Tile);
  weight_gradient_f32<<<static_cast<unsigned>(blocks), kF32Threads, 0, context.stream>>>(
      a.output_gradient.as<float>(), a.output_gradient.row_stride, a.input.as<float>(), a.input.row_stride,
      a.offsets.as<int32_t>(), out, in, a.weight_gradient.as<float>(), a.weight_gradient.row_stride);
  CBTM_CUDA_LAUNCHED("expert_weight_gradient_f32");
}

}  // namespace cbtm::cuda
