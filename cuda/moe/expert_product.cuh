#pragma once

// Tiles of products on tensor cores for the experts of a mixture: 128 x 128 of the result, 16-bit operands, float32
// sums. cp.async fills stages of 32 of k, ldmatrix reads them.
//
// An operand's stage is [128, 32] if k runs along its rows, else [32, 128]. Its chunks of 8 elements are placed as in
// attention_mma.cuh, so that neither copies nor ldmatrix meet in a bank.

#include <type_traits>

#include "attention/attention_mma.cuh"
#include "elements.cuh"
#include "moe/copy_groups.cuh"

namespace cbtm::cuda {

constexpr int kProductTile = 128;     ///< rows and columns of the result
constexpr int kProductDepth = 32;     ///< of k in a stage
constexpr int kProductStages = 3;     ///< two on their way while one is used: 48 KiB, of which two blocks fit where a
                                      ///< multiprocessor has more than 100 KiB (8.0, 9.0)
constexpr int kProductThreads = 256;  ///< 2 x 4 warps, 64 x 32 of the result each
constexpr int kProductStage = kProductTile * kProductDepth;  ///< elements of an operand's stage
constexpr int kProductSharedBytes = kProductStages * 2 * kProductStage * 2;

/// Where k runs in an operand [., .] in memory.
enum class Depth { along_rows, down_columns };

/// One operand of a product: `from` is its first element for this tile.
template <typename Element>
struct ProductOperand {
  const Element* from;
  int64_t stride;
  int extent;  ///< rows (or columns) of the result that exist, from the tile's first on
};

/// A warp's part of the result: tiles of 16 x 8 (mma.cuh).
using ProductSums = float[4][4][4];
__device__ __forceinline__ int product_warp_row() { return static_cast<int>(threadIdx.x) / 32 % 2 * 64; }
__device__ __forceinline__ int product_warp_column() { return static_cast<int>(threadIdx.x) / 64 * 32; }

/// Asks for the operand's elements of k in first .. first + 31, zeros where there are none.
template <Depth kDepth, bool kAligned, typename Element>
__device__ __forceinline__ void copy_stage(Element* stage, const ProductOperand<Element>& operand, int first,
                                           int depth) {
  constexpr bool kAlong = kDepth == Depth::along_rows;
  constexpr int kColumns = kAlong ? kProductDepth : kProductTile;
  constexpr int kRowChunks = kColumns / 8;
  const Element* const from = operand.from + (kAlong ? int64_t{first} : first * operand.stride);
  const int rows = kAlong ? operand.extent : depth - first, columns = kAlong ? depth - first : operand.extent;
#pragma unroll
  for (int i = 0; i < kProductStage / 8 / kProductThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kProductThreads;
    const int row = index / kRowChunks, chunk = index % kRowChunks;
    const int available = row < rows ? max(0, min(8, columns - chunk * 8)) : 0;
    Element* const to = stage + mma::place<kColumns>(row, chunk);
    const Element* const chunk_from = from + (available > 0 ? row * operand.stride + chunk * 8 : 0);
    if constexpr (kAligned)
      mma::copy_up_to_16(to, chunk_from, available * 2);
    else
      *reinterpret_cast<uint4*>(to) = load_packed<Element, 8>(chunk_from, available, /*aligned=*/false).word;
  }
}

template <typename Element>
using ProductTensorElement = std::conditional_t<std::is_same_v<Element, bf16>, __nv_bfloat16, __half>;

/// Left operand of a tile [k, rows]: rows 16 step .. + 15 of the result, k = row .. row + 15 of the tile.
template <int kColumns, typename Element>
__device__ __forceinline__ void load_left_transposed(uint32_t (&a)[4], const Element* tile, int row, int step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  mma::load_matrices_transposed(a,
                                tile + mma::place<kColumns>(row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
}

/// sums += the warp's part of a stage's product.
template <Depth kLeft, Depth kRight, typename Element>
__device__ __forceinline__ void multiply_stage(const Element* left, const Element* right, ProductSums& sums) {
  const int warp_row = product_warp_row(), warp_column = product_warp_column();
#pragma unroll
  for (int step = 0; step < kProductDepth / 16; ++step) {
    uint32_t b[2][4];
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if constexpr (kRight == Depth::along_rows)
        mma::load_right<kProductDepth>(b[j], right, warp_column + 16 * j, step);
      else
        mma::load_right_transposed<kProductTile>(b[j], right, 16 * step, warp_column / 16 + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t a[4];
      if constexpr (kLeft == Depth::along_rows)
        mma::load_left<kProductDepth>(a, left, warp_row + 16 * i, step);
      else
        load_left_transposed<kProductTile>(a, left, 16 * step, warp_row / 16 + i);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        mma::multiply<ProductTensorElement<Element>>(sums[i][2 * j], a, b[j][0], b[j][1]);
        mma::multiply<ProductTensorElement<Element>>(sums[i][2 * j + 1], a, b[j][2], b[j][3]);
      }
    }
  }
}

/// sums = the warp's part of the tile's product over k in 0 .. depth - 1. `stages` holds kProductSharedBytes. All
/// threads of the block call it; when it returns, all have done with the stages.
///
/// numerics  products exact, sums in the tensor cores' float32 in the order of k: the bits of an element do not depend
///           on the tile that it lies in
template <Depth kLeft, Depth kRight, bool kAligned, typename Element>
__device__ __forceinline__ void multiply_tile(const ProductOperand<Element>& left, const ProductOperand<Element>& right,
                                              int depth, Element* stages, ProductSums& sums) {
  Element* const left_stages = stages;
  Element* const right_stages = stages + kProductStages * kProductStage;
  const int steps = (depth + kProductDepth - 1) / kProductDepth;
  const auto copy = [&](int step, int stage) {
    if (step < steps) {
      copy_stage<kLeft, kAligned>(left_stages + stage * kProductStage, left, step * kProductDepth, depth);
      copy_stage<kRight, kAligned>(right_stages + stage * kProductStage, right, step * kProductDepth, depth);
    }
    mma::end_copy_group();
  };
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0;
#pragma unroll
  for (int stage = 0; stage < kProductStages - 1; ++stage) copy(stage, stage);
  int stage = 0, next = kProductStages - 1;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    mma::wait_for_copy_groups<kProductStages - 2>();
    __syncthreads();  // the stage has arrived for all, and the one to be filled has been used by all
    copy(step + kProductStages - 1, next);
    multiply_stage<kLeft, kRight>(left_stages + stage * kProductStage, right_stages + stage * kProductStage, sums);
    next = stage;
    stage = stage + 1 == kProductStages ? 0 : stage + 1;
  }
  mma::wait_for_copy_groups<0>();
  __syncthreads();
}

/// The warp's sums, rounded to 16 bits, to the block's `tile` [128, 128], whose chunks are placed as a stage's. They go
/// through change(j, e, sum) first, for the column product_warp_column() + 8 j + 2 (lane % 4) + e of the tile.
template <typename Element, typename Change>
__device__ __forceinline__ void stage_sums(const ProductSums& sums, Element* tile, const Change& change) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int warp_row = product_warp_row(), warp_column = product_warp_column();
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = warp_row + 16 * i + 8 * half + g, column = warp_column + 8 * j + 2 * t;
        *reinterpret_cast<uint32_t*>(tile + mma::place<kProductTile>(row, column / 8) + 2 * t) =
            mma::rounded_pair<ProductTensorElement<Element>>(change(j, 0, sums[i][j][2 * half]),
                                                             change(j, 1, sums[i][j][2 * half + 1]));
      }
}

}  // namespace cbtm::cuda
