#pragma once

// What attention_backward_hopper keeps in shared memory, and the parts of a block that move it: the producer warp, and
// the thread that adds the sums of dq in memory.

#include "attention/hopper/attention_hopper.cuh"

namespace cbtm::cuda {

/// Tensor maps of the operands: 128 rows of keys and values, 64 of queries and output gradients, 64 columns each.
struct AttentionBackwardMaps {
  CUtensorMap query, output_gradient, key, value;
};

namespace hopper {

/// Shared memory of attention_backward_hopper.
template <int kHeadDim>
struct BackwardMemory {
  using Tiles = AttentionHopperTiles<kHeadDim>;
  static constexpr int kKeys = Tiles::kBackwardKeys;
  static constexpr int kQueries = Tiles::kBackwardQueries;
  static constexpr int kStages = Tiles::kBackwardStages;
  static constexpr int kKeyBytes = Tiles::bytes_of(kKeys);
  static constexpr int kQueryBytes = Tiles::bytes_of(kQueries);
  static constexpr int kScoreBytes = kKeys * kQueries * 2;
  static constexpr int kSumBytes = kQueries * kHeadDim * 4;
  /// Statistics of a stage's queries: log-sum-exp (base 2) and row term.
  struct Statistics {
    float log_sum_exp[kQueries], row_term[kQueries];
  };
  struct Barriers {
    Barrier keys, partial_keys, partial_queries, full[kStages], empty[kStages], sums_written, sums_read;
    uint32_t ticket;
  };
  static_assert(kStages * sizeof(Statistics) + sizeof(Barriers) <= Tiles::kBackwardSmallBytes);

  unsigned char* base;

  __device__ __forceinline__ unsigned char* key() const { return base; }
  __device__ __forceinline__ unsigned char* value() const { return base + kKeyBytes; }
  __device__ __forceinline__ unsigned char* query(int stage) const {
    return base + 2 * kKeyBytes + stage * kQueryBytes;
  }
  __device__ __forceinline__ unsigned char* output_gradient(int stage) const { return query(kStages + stage); }
  /// ds transposed, rounded: a row a key, 128 bytes, swizzled. Two of them take turns.
  __device__ __forceinline__ unsigned char* score_gradients(int which) const {
    return query(2 * kStages) + which * kScoreBytes;
  }
  /// A tile's share of dq, as the threads hold it: four floats a thread of a warpgroup, column tile by column tile.
  __device__ __forceinline__ float* sums() const { return reinterpret_cast<float*>(score_gradients(2)); }
  __device__ __forceinline__ Statistics& statistics(int stage) const {
    return reinterpret_cast<Statistics*>(score_gradients(2) + kSumBytes)[stage];
  }
  __device__ __forceinline__ Barriers& barriers() const { return *reinterpret_cast<Barriers*>(&statistics(kStages)); }
};

/// What the parts of a block know of its tile. The tiles of queries are visited from the last to the first.
struct BackwardShare {
  AttentionBackwardTile tile;
  int head;
  int column;       ///< of the head
  int query_tiles;  ///< of 64
};

/// The producer warp: brings keys and values, then queries, output gradients and statistics, tile by tile.
template <int kHeadDim>
__device__ __forceinline__ void produce(const BackwardMemory<kHeadDim>& memory, const AttentionBackwardMaps& maps,
                                        const AttentionParams& params, const BackwardShare& share) {
  using Memory = BackwardMemory<kHeadDim>;
  constexpr int kKeys = Memory::kKeys, kQueries = Memory::kQueries;
  auto& barriers = memory.barriers();
  const bool leader = is_elected();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool partial_keys = share.tile.key_count < kKeys;
  Barrier& keys_arrived = partial_keys ? barriers.partial_keys : barriers.keys;
  if (leader) {
    keys_arrived.arrive_and_expect(2 * Memory::kKeyBytes);
    load_head<kHeadDim, kKeys>(memory.key(), maps.key, share.tile.key_row, share.column, keys_arrived);
    load_head<kHeadDim, kKeys>(memory.value(), maps.value, share.tile.key_row, share.column, keys_arrived);
  }
  if (partial_keys) {
    keys_arrived.wait(0);
    clear_rows<kHeadDim, kKeys>(memory.key(), share.tile.key_count);
    if (leader) barriers.keys.arrive();
  }
  RingPosition<Memory::kStages> at;
  for (int query_tile = share.query_tiles - 1; query_tile >= 0; --query_tile, at.advance()) {
    const int row = share.tile.query_row + kQueries * query_tile;
    const int count = share.tile.query_count - kQueries * query_tile;
    Barrier& full = barriers.full[at.stage];
    barriers.empty[at.stage].wait(at.parity ^ 1);
    Barrier& arrived = count < kQueries ? barriers.partial_queries : full;  // the first that is brought may be partial
    if (leader) {
      arrived.arrive_and_expect(2 * Memory::kQueryBytes);
      load_head<kHeadDim, kQueries>(memory.query(at.stage), maps.query, row, share.column, arrived);
      load_head<kHeadDim, kQueries>(memory.output_gradient(at.stage), maps.output_gradient, row, share.column, arrived);
    }
    auto& statistics = memory.statistics(at.stage);
    for (int i = lane; i < kQueries; i += 32) {  // a query that is not there has no probabilities
      const int64_t from = share.head * params.query_rows + row + i;
      statistics.log_sum_exp[i] = i < count ? params.row_log_sum_exp[from] * kLog2e : INFINITY;
      statistics.row_term[i] = i < count ? params.row_term[from] : 0;
    }
    if (count < kQueries) {
      arrived.wait(0);
      clear_rows<kHeadDim, kQueries>(memory.query(at.stage), count);
      clear_rows<kHeadDim, kQueries>(memory.output_gradient(at.stage), count);
      if (leader) full.arrive();
    }
    __syncwarp();  // with the statistics; and no lane still waits for a phase of `empty` that may be over soon
    if (leader) full.arrive();
  }
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* place) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(place)) : "memory");
  return value;
}
__device__ __forceinline__ void add_release(uint32_t* place, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(place)), "r"(value)
               : "memory");
}

/// One thread: adds the block's shares of dq to what the blocks of earlier keys have added, when it is its turn. That
/// of a sequence's first keys, which every query sees, finds nothing there.
template <int kHeadDim>
__device__ __forceinline__ void add_sums(const BackwardMemory<kHeadDim>& memory, const AttentionParams& params,
                                         const AttentionBackwardSums& sums, const BackwardShare& share) {
  using Memory = BackwardMemory<kHeadDim>;
  auto& barriers = memory.barriers();
  const uint32_t position = share.tile.key_first / Memory::kKeys;
  const int64_t last =
      static_cast<int64_t>(share.tile.query_tile + share.query_tiles - 1) * params.num_heads + share.head;
  uint32_t* turn = sums.turns + last;
  float* destination = sums.query_gradients + last * (Memory::kSumBytes / 4);
  for (int step = 0; step < share.query_tiles; ++step) {
    barriers.sums_written.wait(step % 2);
    while (load_acquire(turn) != position) {
    }
    order_copies();
    if (position == 0)
      store_bytes(destination, memory.sums(), Memory::kSumBytes);
    else
      add_floats(destination, memory.sums(), Memory::kSumBytes);
    commit_stores();
    wait_for_stores_to_read<0>();
    barriers.sums_read.arrive();
    wait_for_stores<0>();
    order_copies();
    add_release(turn, 1);
    turn -= params.num_heads;
    destination -= params.num_heads * (Memory::kSumBytes / 4);
  }
}

}  // namespace hopper
}  // namespace cbtm::cuda
