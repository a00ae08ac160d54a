#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "runtime/check.h"

namespace cbtm::cuda {

/// starts[s] = the first place of `keys` (ascending, each in [0, segments)) that holds s or more, for s in [0,
/// segments]: segment s of the sorted keys is starts[s] .. starts[s+1]. A thread a key; 4 bytes a key read, 8 a segment
/// written.
static __global__ void segment_starts(const int32_t* __restrict__ keys, int64_t count, int64_t segments,
                                      int64_t* __restrict__ starts) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i <= count; i += stride) {
    const int64_t first = i == 0 ? 0 : keys[i - 1] + int64_t{1};
    const int64_t last = i == count ? segments : keys[i];
    for (int64_t segment = first; segment <= last; ++segment) starts[segment] = i;
  }
}

inline void launch_segment_starts(cudaStream_t stream, int sm_count, const int32_t* keys, int64_t count,
                                  int64_t segments, int64_t* starts) {
  constexpr int kThreads = 256;
  const int64_t blocks = std::min<int64_t>(count / kThreads + 1, int64_t{8} * sm_count);
  segment_starts<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(keys, count, segments, starts);
  CBTM_CUDA_LAUNCHED("segment_starts");
}

/// Bits that the numbers 0 .. count - 1 need.
inline int bits_for(int64_t count) {
  int bits = 1;
  while (bits < 31 && (int64_t{1} << bits) < count) ++bits;
  return bits;
}

}  // namespace cbtm::cuda
