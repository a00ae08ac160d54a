#pragma once

#include <cub/block/block_scan.cuh>

#include "cbtm/device/moe_operands.h"

namespace cbtm::cuda {

/// Tiles of rows of all experts, numbered on the device from the offsets of their sorted rows: one launch has the
/// products of all experts, however the tokens are spread.
class ExpertTiles {
 public:
  static constexpr int kThreads = static_cast<int>(kMaxExperts);  ///< of a block that uses them

  struct Shared {
    int first[kMaxExperts + 1];  ///< of each expert, the number of its first tile of rows; then the number of all
    cub::BlockScan<int, kThreads>::TempStorage scan;
  };

  /// Tiles of `tile_rows` rows. All threads of the block call it.
  __device__ __forceinline__ ExpertTiles(const int32_t* offsets, int experts, int tile_rows, Shared& shared)
      : shared_(shared), offsets_(offsets), experts_(experts), tile_rows_(tile_rows) {
    const auto expert = static_cast<int>(threadIdx.x);
    const int rows = expert < experts ? offsets[expert + 1] - offsets[expert] : 0;
    int first, all;
    cub::BlockScan<int, kThreads>(shared.scan).ExclusiveSum((rows + tile_rows - 1) / tile_rows, first, all);
    if (expert < experts) shared.first[expert] = first;
    if (expert == 0) shared.first[experts] = all;
    __syncthreads();
  }

  __device__ __forceinline__ int row_tiles() const { return shared_.first[experts_]; }

  struct Tile {
    int expert;
    int first_row;  ///< sorted row
    int rows;       ///< of the expert from it on, at most the tile's
    int column;     ///< number of the tile of columns
  };
  /// Tile `number` of row_tiles() * column_tiles. Those with the same columns of an expert's weights come one after
  /// another, so that they read them together.
  __device__ __forceinline__ Tile tile(int number, int column_tiles) const {
    const int row_tile = number / column_tiles;
    int expert = 0;
#pragma unroll 1
    for (int step = kThreads / 2; step > 0; step /= 2)
      if (expert + step < experts_ && shared_.first[expert + step] <= row_tile) expert += step;
    const int of_expert = shared_.first[expert + 1] - shared_.first[expert];
    const int place = number - shared_.first[expert] * column_tiles;
    const int first_row = offsets_[expert] + place % of_expert * tile_rows_;
    return {expert, first_row, min(offsets_[expert + 1] - first_row, tile_rows_), place / of_expert};
  }

  /// No fewer tiles of rows than there are.
  static int64_t row_tiles_max(int64_t sorted_rows, int64_t experts, int64_t tile_rows) {
    return sorted_rows / tile_rows + (experts < sorted_rows ? experts : sorted_rows);
  }

 private:
  Shared& shared_;
  const int32_t* offsets_;
  int experts_, tile_rows_;
};

}  // namespace cbtm::cuda
