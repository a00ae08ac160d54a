// Linear layers of a mixture's experts by tensor cores, forward and input gradient: operands of 16 bits.

#include <algorithm>

#include "dispatch.h"
#include "moe/expert_epilogue.cuh"
#include "moe/expert_linear_mma.h"
#include "moe/expert_product.cuh"
#include "moe/expert_tiles.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 2;

template <typename Element, typename Epilogue>
struct Params {
  const Element* left;  ///< [2 * rows, depth]
  int64_t left_stride;
  const Element* weight;  ///< [experts * out, in]
  int64_t weight_stride;
  const int32_t* offsets;
  int experts, out;
  int columns, depth;  ///< of the result and of the sums
  Epilogue epilogue;
};

// forward          output[p][o] = activation(Σ_i input[p][i] weight_e[o][i] + bias_e[o])
// input gradient   gradient[p][i] = derivative * Σ_o output_gradient[p][o] weight_e[o][i]
//
// grid      as many blocks as run at a time; each takes tiles of 128 sorted rows of one expert and 128 columns in turn,
//           numbered from the offsets on the device (ExpertTiles). 2 x 4 warps have 64 x 32 of the result each.
// work      both operands by cp.async, three stages of 32 of k; sums to shared memory as 16-bit values, from there
//           8 columns per thread with what the epilogue needs
// bytes     of each expert with rows: its weights once for every 128 of its rows, its rows once for every 128 columns;
//           once from memory, else from the L2. Results, masks or arguments written once.
// numerics  products exact, float32 sums in the order of k; bias in float32; rounded to 16 bits before the activation.
//           A row's bits do not depend on other rows.
template <bool kForward, bool kAligned, typename Element, typename Epilogue>
__global__ void __launch_bounds__(kProductThreads, kBlocksPerMultiprocessor)
    expert_rows_product(const Params<Element, Epilogue> p) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ ExpertTiles::Shared tiles_shared;
  Element* const stages = reinterpret_cast<Element*>(memory);
  const ExpertTiles tiles(p.offsets, p.experts, kProductTile, tiles_shared);
  const int column_tiles = (p.columns + kProductTile - 1) / kProductTile;
  const int count = tiles.row_tiles() * column_tiles;
#pragma unroll 1
  for (auto number = static_cast<int>(blockIdx.x); number < count; number += static_cast<int>(gridDim.x)) {
    const ExpertTiles::Tile tile = tiles.tile(number, column_tiles);
    const int first_column = tile.column * kProductTile;
    const Element* const weight = p.weight + int64_t{tile.expert} * p.out * p.weight_stride;
    ProductSums sums;
    multiply_tile<Depth::along_rows, kForward ? Depth::along_rows : Depth::down_columns, kAligned, Element>(
        {p.left + tile.first_row * p.left_stride, p.left_stride, tile.rows},
        {weight + (kForward ? first_column * p.weight_stride : first_column), p.weight_stride,
         p.columns - first_column},
        p.depth, stages, sums);
    float bias[4][2] = {};
    if constexpr (kForward) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = first_column + product_warp_column() + 8 * j + static_cast<int>(threadIdx.x) % 4 * 2 + e;
          if (column < p.columns) bias[j][e] = p.epilogue.bias_at(int64_t{tile.expert} * p.out + column);
        }
    }
    stage_sums(sums, stages, [&](int j, int e, float sum) { return sum + bias[j][e]; });
    __syncthreads();
    constexpr int kRowChunks = kProductTile / 8;
#pragma unroll 1
    for (auto index = static_cast<int>(threadIdx.x); index < tile.rows * kRowChunks; index += kProductThreads) {
      const int row = index / kRowChunks, column = first_column + index % kRowChunks * 8;
      if (column >= p.columns) continue;
      float values[kEpilogueColumns];
      const Packed<Element, 8> packed{
          *reinterpret_cast<const uint4*>(stages + mma::place<kProductTile>(row, index % kRowChunks))};
      packed.unpack(values);
      p.epilogue.write(tile.first_row + row, column, min(8, p.columns - column), values);
    }
    __syncthreads();  // the next tile's copies take the place of the results
  }
}

template <bool kForward, typename Element, typename Epilogue>
void launch(Context& context, int64_t sorted_rows, bool aligned, const Params<Element, Epilogue>& p) {
  const int64_t tiles =
      ExpertTiles::row_tiles_max(sorted_rows, p.experts, kProductTile) * ceil_divide(p.columns, kProductTile);
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(tiles, int64_t{kBlocksPerMultiprocessor} * context.sm_count));
  dispatch_bool(aligned, [&]<bool kAligned>() {
    const auto kernel = expert_rows_product<kForward, kAligned, Element, Epilogue>;
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), kProductSharedBytes);
    kernel<<<blocks, kProductThreads, kProductSharedBytes, context.stream>>>(p);
  });
  CBTM_CUDA_LAUNCHED("expert_rows_product");
}

template <typename Element>
void forward(Context& context, const ExpertLinearForward& a) {
  launch<true>(context, a.input.rows, rows_aligned(a.input, 16) && rows_aligned(a.weight, 16),
               Params<Element, ForwardEpilogue<Element>>{.left = a.input.as<Element>(),
                                                         .left_stride = a.input.row_stride,
                                                         .weight = a.weight.as<Element>(),
                                                         .weight_stride = a.weight.row_stride,
                                                         .offsets = a.offsets.as<int32_t>(),
                                                         .experts = static_cast<int>(a.experts()),
                                                         .out = static_cast<int>(a.out()),
                                                         .columns = static_cast<int>(a.out()),
                                                         .depth = static_cast<int>(a.input.columns),
                                                         .epilogue = forward_epilogue<Element>(a)});
}

template <typename Element>
void input_gradient(Context& context, const ExpertLinearBackward& a) {
  launch<false>(context, a.input.rows, rows_aligned(a.output_gradient, 16) && rows_aligned(a.weight, 16),
                Params<Element, BackwardEpilogue<Element>>{.left = a.output_gradient.as<Element>(),
                                                           .left_stride = a.output_gradient.row_stride,
                                                           .weight = a.weight.as<Element>(),
                                                           .weight_stride = a.weight.row_stride,
                                                           .offsets = a.offsets.as<int32_t>(),
                                                           .experts = static_cast<int>(a.experts()),
                                                           .out = static_cast<int>(a.out()),
                                                           .columns = static_cast<int>(a.input.columns),
                                                           .depth = static_cast<int>(a.out()),
                                                           .epilogue = backward_epilogue<Element>(a)});
}

}  // namespace

void expert_forward_mma(Context& context, const ExpertLinearForward& arguments) {
  if (arguments.input.dtype == DType::bf16) return forward<bf16>(context, arguments);
  forward<f16>(context, arguments);
}

void expert_input_gradient_mma(Context& context, const ExpertLinearBackward& arguments) {
  if (arguments.input.dtype == DType::bf16) return input_gradient<bf16>(context, arguments);
  input_gradient<f16>(context, arguments);
}

}  // namespace cbtm::cuda
