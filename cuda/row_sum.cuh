#pragma once

namespace cbtm::cuda {

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

constexpr int kRowWarpsMax = 32;

/// Sums over the threads that share a row: blockDim.x of them, a multiple of 32; blockDim.y rows go side by side. Every
/// thread of the block calls it equally often. A fixed tree: shuffles, then the warps' sums in order.
/// One block barrier a call, so the shared slots are used in turn: two calls may not use the same `turn` in sequence.
struct RowSums {
  float slots[2][2][kRowWarpsMax];

  __device__ float sum(float value, int turn) {
    value = warp_sum(value);
    const int warps = static_cast<int>(blockDim.x) / 32;
    if (warps == 1) return value;
    const int first = static_cast<int>(threadIdx.y) * warps;
    if (threadIdx.x % 32 == 0) slots[turn][0][first + static_cast<int>(threadIdx.x) / 32] = value;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < warps; ++warp) total += slots[turn][0][first + warp];
    return total;
  }

  __device__ float max(float value, int turn) {
    value = warp_max(value);
    const int warps = static_cast<int>(blockDim.x) / 32;
    if (warps == 1) return value;
    const int first = static_cast<int>(threadIdx.y) * warps;
    if (threadIdx.x % 32 == 0) slots[turn][0][first + static_cast<int>(threadIdx.x) / 32] = value;
    __syncthreads();
    float highest = slots[turn][0][first];
    for (int warp = 1; warp < warps; ++warp) highest = fmaxf(highest, slots[turn][0][first + warp]);
    return highest;
  }

  /// Two sums at the price of one.
  __device__ float2 sums(float2 value, int turn) {
    value = {warp_sum(value.x), warp_sum(value.y)};
    const int warps = static_cast<int>(blockDim.x) / 32;
    if (warps == 1) return value;
    const int first = static_cast<int>(threadIdx.y) * warps;
    if (threadIdx.x % 32 == 0) {
      slots[turn][0][first + static_cast<int>(threadIdx.x) / 32] = value.x;
      slots[turn][1][first + static_cast<int>(threadIdx.x) / 32] = value.y;
    }
    __syncthreads();
    float2 total = {0, 0};
    for (int warp = 0; warp < warps; ++warp) {
      total.x += slots[turn][0][first + warp];
      total.y += slots[turn][1][first + warp];
    }
    return total;
  }
};

}  // namespace cbtm::cuda
