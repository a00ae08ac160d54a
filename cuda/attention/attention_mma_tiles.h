#pragma once

#include <cstdint>

namespace cbtm::cuda {

/// Tile sizes of the tensor-core kernels for a head size. Four warps a block; a warp owns 16 rows of the tile, or 32
/// where registers allow (then each right operand fetched from shared memory serves two products).
template <int kHeadDim>
struct AttentionMmaTiles {
  static constexpr int kForwardRowTiles = kHeadDim <= 80 ? 2 : 1;
  static constexpr int kForwardQueries = 64 * kForwardRowTiles;
  /// Keys a step; those of 64 take 32 registers more, which wider heads need.
  static constexpr int kForwardKeys = kHeadDim <= 64 ? 64 : 32;
  static constexpr int kBackwardRowTiles = kHeadDim <= 64 ? 2 : 1;
  static constexpr int kBackwardRows = 64 * kBackwardRowTiles;  ///< keys, or queries, that a block owns
  static constexpr int kBackwardStage = 32;                     ///< of the others, a step of its loop

  /// Shared memory of a block in bytes: operands that stay, and two stages of those that stream.
  static constexpr int kForwardShared = (kForwardQueries + 4 * kForwardKeys) * kHeadDim * 2;
  static constexpr int kQueriesShared = (2 * kBackwardRows + 4 * kBackwardStage) * kHeadDim * 2;
  static constexpr int kKeysShared = kQueriesShared + 4 * kBackwardStage * 4;
};

/// Calls function.operator()<kHeadDim>() for a head size that the tensor-core kernels are compiled for, else returns
/// false.
template <typename Function>
bool dispatch_attention_mma(int64_t head_dim, const Function& function) {
  switch (head_dim) {
    case 32: function.template operator()<32>(); return true;
    case 64: function.template operator()<64>(); return true;
    case 80: function.template operator()<80>(); return true;
    case 96: function.template operator()<96>(); return true;
    case 128: function.template operator()<128>(); return true;
    default: return false;
  }
}

}  // namespace cbtm::cuda
