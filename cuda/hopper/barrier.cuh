#pragma once

// mbarriers: barriers in shared memory that also count the bytes of asynchronous copies. Code for compute
// capability 9.0 alone (90a): files that include this are compiled for no other (cuda.cmake).

#include <cstdint>

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "cuda/hopper is compiled for 90a only"
#endif

namespace cbtm::cuda::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// A barrier whose phase ends when `arrivals` threads have arrived and all bytes expected have come.
/// One thread initialises the barriers of a block, then publish_barriers(), then the block's threads meet.
struct Barrier {
  uint64_t word;

  __device__ __forceinline__ void initialise(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&word)), "r"(arrivals) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&word)) : "memory");
  }
  /// Adds to the bytes that this phase waits for, without arriving.
  __device__ __forceinline__ void expect(uint32_t bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&word)), "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ void arrive_and_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&word)), "r"(bytes)
                 : "memory");
  }
  /// Returns once the phase of this parity has ended: of a new barrier the phases have the parities 0, 1, 0, ...
  /// Waiting for parity 1 of a new barrier returns at once.
  __device__ __forceinline__ void wait(uint32_t parity) const {
    uint32_t ended = 0;
    while (ended == 0)
      asm volatile(
          "{\n.reg .pred ended;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
          "selp.u32 %0, 1, 0, ended;\n}"
          : "=r"(ended)
          : "r"(shared_address(&word)), "r"(parity)
          : "memory");
  }
};

/// Shows initialised barriers to asynchronous copies.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// A position in a ring of kStages stages, each with a barrier: `parity` is that of the ring's round.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

}  // namespace cbtm::cuda::hopper
