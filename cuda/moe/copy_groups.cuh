#pragma once

#include "async_copy.cuh"

namespace cbtm::cuda::mma {

// Asynchronous copies in groups, of which several are on their way (async_copy.cuh).

/// The first `bytes` (0 to 16) of 16 bytes, zeros behind them. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_up_to_16(void* shared, const void* global, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
#else
  for (int i = 0; i < 8; ++i)
    static_cast<uint16_t*>(shared)[i] = 2 * i < bytes ? static_cast<const uint16_t*>(global)[i] : uint16_t{0};
#endif
}

/// Ends a group: the copies that this thread has asked for since the last one.
__device__ __forceinline__ void end_copy_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until all of this thread's groups but the last kOpen have arrived.
template <int kOpen>
__device__ __forceinline__ void wait_for_copy_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
#endif
}

}  // namespace cbtm::cuda::mma
