#pragma once

namespace cbtm::cuda {

// A tile of a product in float32 arithmetic, for operands of any types and layouts: what tensor cores do not take.

constexpr int kF32Tile = 64;             ///< rows and columns of the result
constexpr int kF32Depth = 16;            ///< of k at a time
constexpr int kF32Threads = 256;         ///< of a block: 16 x 16, 4 x 4 elements each
constexpr int kF32Part = 4;              ///< rows and columns that a thread has
constexpr int kF32Pitch = kF32Tile + 4;  ///< of a step of k in shared memory: rows start at multiples of 16 bytes

struct alignas(16) F32TileShared {
  float left[kF32Depth][kF32Pitch], right[kF32Depth][kF32Pitch];
};

/// First of the calling thread's rows and columns of the tile.
__device__ __forceinline__ int f32_tile_row() { return static_cast<int>(threadIdx.x) / 16 * kF32Part; }
__device__ __forceinline__ int f32_tile_column() { return static_cast<int>(threadIdx.x) % 16 * kF32Part; }

/// sums[i][j] += Σ_l left(l, f32_tile_row() + i) * right(l, f32_tile_column() + j) for l in 0 .. depth - 1. `left` and
/// `right` give one element of an operand; beyond the matrix they give 0, but they are not called for l >= depth.
/// kLeftAlong: neighbours in memory are neighbours in l, else in the row; kRightAlong likewise.
///
/// work      operands pass through shared memory; the next step's are loaded to registers meanwhile
/// numerics  float32, in the order of l: the bits of an element do not depend on the tile that it lies in
template <bool kLeftAlong, bool kRightAlong, typename Left, typename Right>
__device__ __forceinline__ void f32_tile(const Left& left, const Right& right, int depth, F32TileShared& shared,
                                         float (&sums)[kF32Part][kF32Part]) {
  constexpr int kLoads = kF32Tile * kF32Depth / kF32Threads;
  const auto thread = static_cast<int>(threadIdx.x);
  const auto l_of = [&](bool along, int i) {
    const int place = thread + i * kF32Threads;
    return along ? place % kF32Depth : place / kF32Tile;
  };
  const auto at_of = [&](bool along, int i) {
    const int place = thread + i * kF32Threads;
    return along ? place / kF32Depth : place % kF32Tile;
  };
  float next_left[kLoads], next_right[kLoads];
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int left_l = first + l_of(kLeftAlong, i), right_l = first + l_of(kRightAlong, i);
      next_left[i] = left_l < depth ? left(left_l, at_of(kLeftAlong, i)) : 0.0f;
      next_right[i] = right_l < depth ? right(right_l, at_of(kRightAlong, i)) : 0.0f;
    }
  };
  load(0);
  for (int first = 0; first < depth; first += kF32Depth) {
    __syncthreads();  // the step before has been used
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      shared.left[l_of(kLeftAlong, i)][at_of(kLeftAlong, i)] = next_left[i];
      shared.right[l_of(kRightAlong, i)][at_of(kRightAlong, i)] = next_right[i];
    }
    __syncthreads();
    if (first + kF32Depth < depth) load(first + kF32Depth);
#pragma unroll
    for (int l = 0; l < kF32Depth; ++l) {
      const float4 a = *reinterpret_cast<const float4*>(&shared.left[l][f32_tile_row()]);
      const float4 b = *reinterpret_cast<const float4*>(&shared.right[l][f32_tile_column()]);
      const float rows[kF32Part] = {a.x, a.y, a.z, a.w}, columns[kF32Part] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < kF32Part; ++i)
#pragma unroll
        for (int j = 0; j < kF32Part; ++j) sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
    }
  }
}

}  // namespace cbtm::cuda
