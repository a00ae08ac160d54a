#pragma once

namespace cbtm::cuda {

/// Sum over the kThreads of a block, the same in all of them. A fixed tree: halves of a warp first, 16 lanes apart,
/// then 8, ..., then the warps in order. (cub::BlockReduce adds neighbours first, which gives other bits; those of the
/// norm of gradients and of the dual value of an assignment are recorded in tests/data/recorded_bits.json.)
template <int kThreads>
__device__ double block_sum(double value) {
  __shared__ double warp_sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();  // an earlier sum has been read
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace cbtm::cuda
