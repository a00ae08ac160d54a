#pragma once

// Clusters: blocks on neighbouring multiprocessors that see each other's barriers and are loaded together. 90a only.

#include <cuda.h>

#include "hopper/barrier.cuh"

namespace cbtm::cuda::hopper {

/// Number of this block in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// All threads of all blocks of the cluster wait for each other. Initialised barriers are seen by the others after it,
/// and before a block ends it keeps its shared memory alive for them.
__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

/// Arrives at the barrier at the same place of block `rank`.
__device__ __forceinline__ void arrive_in_cluster(Barrier& barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(&barrier.word)),
      "r"(rank)
      : "memory");
}

/// As Barrier::wait, where blocks of the cluster arrive.
__device__ __forceinline__ void wait_for_cluster(const Barrier& barrier, uint32_t parity) {
  uint32_t ended = 0;
  while (ended == 0)
    asm volatile(
        "{\n.reg .pred ended;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(shared_address(&barrier.word)), "r"(parity)
        : "memory");
}

/// As load_tile, into every block whose bit is in `blocks`: to the same place, and its bytes to the same barrier, of
/// each.
__device__ __forceinline__ void load_tile_in_cluster(void* shared, const CUtensorMap& map, int row, int column,
                                                     Barrier& barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(shared_address(&barrier.word)), "h"(blocks)
      : "memory");
}

}  // namespace cbtm::cuda::hopper
