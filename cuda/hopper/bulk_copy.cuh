#pragma once

// Asynchronous copies of whole tiles by tensor maps (tensor_map.h), issued by one thread. 90a only.
//
// In shared memory a tile has its rows one after another, without gaps, 1024-byte aligned. With a map of 128 bytes a
// row, they are swizzled: 16-byte unit u of row r lies where unit u ^ (r % 8) would. What lies outside the matrix
// arrives as zeros, its bytes counted as the others, and is not written.

#include <cuda.h>

#include "hopper/barrier.cuh"

namespace cbtm::cuda::hopper {

/// Brings a map, a __grid_constant__ parameter of the kernel, near.
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}

/// Loads the tile whose first element is at `row`, `column` of the matrix; the barrier, which expects the tile's bytes,
/// gets them.
__device__ __forceinline__ void load_tile(void* shared, const CUtensorMap& map, int row, int column, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(shared_address(shared)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(shared_address(&barrier.word))
      : "memory");
}

/// Stores a tile; show_to_copies() and a barrier of its writers come before.
__device__ __forceinline__ void store_tile(const CUtensorMap& map, int row, int column, const void* shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
                   reinterpret_cast<uint64_t>(&map)),
               "r"(column), "r"(row), "r"(shared_address(shared))
               : "memory");
}
/// Stores `bytes`, a multiple of 16, that follow each other in shared and in global memory, both 16-byte aligned.
__device__ __forceinline__ void store_bytes(void* global, const void* shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
/// The same, adding float32 to what is there.
__device__ __forceinline__ void add_floats(float* global, const void* shared, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
/// What this thread has stored since the last call is one group.
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Returns once at most kGroups of this thread's groups still read shared memory.
template <int kGroups>
__device__ __forceinline__ void wait_for_stores_to_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
}
/// Returns once at most kGroups of this thread's groups are not yet in memory.
template <int kGroups>
__device__ __forceinline__ void wait_for_stores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// Orders this thread's stores of groups that it has waited for before what it writes to memory then, and the other way
/// round: what it has read there before its copies that come after.
__device__ __forceinline__ void order_copies() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

/// What this thread has written to shared memory is seen by asynchronous copies and wgmma that come after.
__device__ __forceinline__ void show_to_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace cbtm::cuda::hopper
