#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "runtime/check.h"

namespace cbtm::cuda {

constexpr int kSegmentThreads = 256;
constexpr int kSegmentKeys = 4 * kSegmentThreads;  ///< of a block at a time

/// starts[s] = the first place of `keys` (ascending, each in [0, segments)) that holds s or more, for s in [0,
/// segments]: segment s of the sorted keys is starts[s] .. starts[s+1]. A thread 4 neighbouring keys (kAligned: in one
/// access), and the key before them from the thread before; a block's starts are put together in shared memory. 4 bytes
/// a key read, 8 a segment written.
template <bool kAligned>
static __global__ void __launch_bounds__(kSegmentThreads)
    segment_starts(const int32_t* __restrict__ keys, int64_t count, int64_t segments, int64_t* __restrict__ starts) {
  __shared__ int32_t last_keys[kSegmentThreads + 1];  // of the threads; before them the key before the block's
  __shared__ int64_t block_starts[kSegmentKeys];
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kSegmentKeys;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kSegmentKeys; base <= count; base += stride) {
    const int64_t begin = base + 4 * thread;
    int4 own = {0, 0, 0, 0};
    if (kAligned && begin + 4 <= count) {
      own = *reinterpret_cast<const int4*>(keys + begin);
    } else {
      if (begin < count) own.x = keys[begin];
      if (begin + 1 < count) own.y = keys[begin + 1];
      if (begin + 2 < count) own.z = keys[begin + 2];
      if (begin + 3 < count) own.w = keys[begin + 3];
    }
    __syncthreads();
    if (thread == 0) last_keys[0] = base > 0 ? keys[base - 1] : -1;
    last_keys[thread + 1] = own.w;
    __syncthreads();
    const int64_t block_first = last_keys[0] + int64_t{1};
    const int64_t block_last = base + kSegmentKeys > count ? segments : last_keys[kSegmentThreads];
    const bool staged = block_last - block_first < kSegmentKeys;  // else keys are so sparse that places are far apart
    int64_t first = last_keys[thread] + int64_t{1};
    const int32_t four[4] = {own.x, own.y, own.z, own.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t i = begin + k;
      if (i > count) break;
      const int64_t last = i == count ? segments : four[k];
      for (int64_t segment = first; segment <= last; ++segment)
        (staged ? block_starts[segment - block_first] : starts[segment]) = i;
      first = last + 1;
    }
    if (!staged) continue;
    __syncthreads();
    for (int64_t segment = block_first + thread; segment <= block_last; segment += kSegmentThreads)
      starts[segment] = block_starts[segment - block_first];
  }
}

inline void launch_segment_starts(cudaStream_t stream, int sm_count, const int32_t* keys, int64_t count,
                                  int64_t segments, int64_t* starts) {
  const int64_t blocks = std::min<int64_t>(count / kSegmentKeys + 1, int64_t{8} * sm_count);
  const bool aligned = reinterpret_cast<uintptr_t>(keys) % 16 == 0;
  (aligned ? segment_starts<true>
           : segment_starts<false>)<<<static_cast<unsigned>(blocks), kSegmentThreads, 0, stream>>>(keys, count,
                                                                                                   segments, starts);
  CBTM_CUDA_LAUNCHED("segment_starts");
}

/// Bits that the numbers 0 .. count - 1 need.
inline int bits_for(int64_t count) {
  int bits = 1;
  while (bits < 31 && (int64_t{1} << bits) < count) ++bits;
  return bits;
}

}  // namespace cbtm::cuda
