#pragma once

// Parts of a block that do different work: their registers, their barriers, and one thread out of a warp. 90a only.

#include <cstdint>

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "cuda/hopper is compiled for 90a only"
#endif

namespace cbtm::cuda::hopper {

inline constexpr int kWarpgroupThreads = 128;

/// Registers per thread from now on, a multiple of 8 from 24 to 256; executed by every warp of the warpgroup.
/// What one warpgroup gives back, another one waits for and takes. ptxas needs to know with how many each thread
/// starts:
/// __launch_bounds__ names the least number of resident blocks too (384 threads, 1 block: 168 each).
template <int kRegisters>
__device__ __forceinline__ void give_registers_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Barrier 1 to 15 of the block (0 is __syncthreads()) among `threads` threads, whole warps.
__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
/// Arrives without waiting: the others of the `threads` wait by meet().
__device__ __forceinline__ void announce(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// True for one thread of a whole warp.
__device__ __forceinline__ bool is_elected() {
  uint32_t elected;
  asm volatile(
      "{\n.reg .pred elected;\n"
      "elect.sync _|elected, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, elected;\n}"
      : "=r"(elected));
  return elected != 0;
}

}  // namespace cbtm::cuda::hopper
