#pragma once

// Building blocks of the attention kernels for Hopper (90a): operands in shared memory as tensor maps bring them, and
// the products of a warpgroup.
//
// A tile of rows lies in panels of 64 columns: row r of panel p is 128 bytes, swizzled, at 128 * (p * rows + r).

#include "attention/attention_hopper.h"
#include "attention/attention_mma.cuh"
#include "hopper/barrier.cuh"
#include "hopper/bulk_copy.cuh"
#include "hopper/tensor_map.h"
#include "hopper/warpgroup.cuh"
#include "hopper/wgmma.cuh"

namespace cbtm::cuda::hopper {

/// The map that brings `tile_rows` rows and 64 columns of the first `rows` rows of an operand at a time.
inline CUtensorMap head_map(const AttentionParams& params, const AttentionOperand& operand, DType dtype, int64_t rows,
                            int tile_rows) {
  return make_tensor_map({operand.data, dtype, rows, params.num_heads * params.head_dim, operand.stride}, tile_rows,
                         64);
}

/// One thread asks for a tile of kRows rows from `row` on, the columns of the head that begins at `column`.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void load_head(unsigned char* tile, const CUtensorMap& map, int row, int column,
                                          Barrier& barrier) {
#pragma unroll
  for (int panel = 0; panel < AttentionHopperTiles<kHeadDim>::kPanels; ++panel)
    load_tile(tile + panel * kRows * 128, map, row, column + 64 * panel, barrier);
}

/// A warp sets the rows from `first` on to zero: what a tensor map brought there belongs to another sequence, and an
/// infinite value of it times a probability of zero would not be zero.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void clear_rows(unsigned char* tile, int first) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int panel = 0; panel < AttentionHopperTiles<kHeadDim>::kPanels; ++panel)
    for (int unit = 8 * first + lane; unit < 8 * kRows; unit += 32)
      *reinterpret_cast<uint4*>(tile + panel * kRows * 128 + unit * 16) = make_uint4(0, 0, 0, 0);
  show_to_copies();
  __syncwarp();
}

/// Issues scores = left right^T over the head's columns: left of 64 rows, right of kRightRows, which are the columns of
/// the scores; kLeftRows is how many rows the panels of the left tile have.
template <int kHeadDim, int kLeftRows, int kRightRows, typename Element, int kCount>
__device__ __forceinline__ void issue_scores(float (&scores)[kCount], uint64_t left, uint64_t right) {
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step)
    multiply<Element>(scores, advanced(left, step / 4 * kLeftRows * 128 + step % 4 * 32),
                      advanced(right, step / 4 * kRightRows * 128 + step % 4 * 32), step > 0);
}

/// Issues sums += weights right: right has a row for every column of the weights, and the head's columns.
template <typename Element, int kCount, int kSteps>
__device__ __forceinline__ void issue_weighted_sum(float (&sums)[kCount], const uint32_t (&weights)[kSteps][4],
                                                   uint64_t right) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    multiply<Element, Major::mn>(sums, weights[step], advanced(right, step * 2048), true);
}

/// Accumulators as the left operand of a next product, rounded to 16 bits.
template <typename Element, int kSteps>
__device__ __forceinline__ void as_left(uint32_t (&left)[kSteps][4], const float (&accumulators)[8 * kSteps]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      left[step][i] = mma::rounded_pair<Element>(accumulators[8 * step + 2 * i], accumulators[8 * step + 2 * i + 1]);
}

template <int kSteps>
__device__ __forceinline__ void hold(uint32_t (&left)[kSteps][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) hold(left[step]);
}

}  // namespace cbtm::cuda::hopper
