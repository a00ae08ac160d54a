#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "attention/attention_params.h"

// The attention kernels for Hopper (compute capability 9.0, compiled for 90a): when they run, their tiles, their launch
// functions. Their code is in attention/hopper.

namespace cbtm::cuda {

/// Whether these kernels compute attention: the program has them, the GPU is a Hopper, elements have 16 bits, heads 64,
/// 80 or 128 columns, and rows start at multiples of 16 bytes, which tensor maps ask for. A paged cache, whose rows do
/// not follow each other, is read by attention_forward_mma. Wherever these kernels do not run, others do that are as
/// exact; CBTM_ATTENTION=mma in the environment asks for those (to compare them). Throws Error for another value.
bool runs_on_hopper(const Context& context, DType dtype, const AttentionParams& params);

/// Launches the forward kernel on its tiles.
void run_attention_forward_hopper(Context& context, DType dtype, const AttentionParams& params,
                                  const std::function<SequenceTable<AttentionQueryTile>(int tile)>& tiles_of);

/// Launches the kernels of the backward pass; everything in params but tiles is set, row_log_sum_exp and row_term too.
/// `memory`, 16-byte aligned, has attention_sums_bytes(shape).
void run_attention_backward_hopper(Context& context, DType dtype, const AttentionParams& params,
                                   const AttentionShape& shape, void* memory);
int64_t attention_sums_bytes(const AttentionShape& shape);

/// Tile sizes of the Hopper kernels for a head size: consumer warpgroups own 64 rows each, and a warpgroup more feeds
/// them. In shared memory a row of a head lies in panels of 64 columns, 128 bytes a row of a panel (the swizzle of the
/// tensor maps); the last panel of a head of 80 holds 48 columns of the next head, which no product reads.
template <int kHeadDim>
struct AttentionHopperTiles {
  static constexpr int kConsumers = 2;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kPanels = (kHeadDim + 63) / 64;
  static constexpr int bytes_of(int rows) { return rows * kPanels * 128; }

  static constexpr int kForwardQueries = 64 * kConsumers;
  static constexpr int kForwardKeys = 128;  ///< a step
  static constexpr int kForwardStages = 2;
  /// Queries, the stages of keys and of values, and the barriers.
  static constexpr int kForwardShared = bytes_of(kForwardQueries) + 2 * kForwardStages * bytes_of(kForwardKeys) + 128;

  static constexpr int kBackwardKeys = 64 * kConsumers;
  static constexpr int kBackwardQueries = 64;  ///< a step
  static constexpr int kBackwardStages = 2;
  static constexpr int kBackwardSmallBytes = kBackwardStages * kBackwardQueries * 8 + 128;  ///< statistics and barriers
  /// Keys, values; the stages of queries and of output gradients; two tiles of score gradients; a tile of float32 sums.
  static constexpr int kBackwardShared =
      2 * bytes_of(kBackwardKeys) + 2 * kBackwardStages * bytes_of(kBackwardQueries) +
      2 * kBackwardKeys * kBackwardQueries * 2 + kBackwardQueries * kHeadDim * 4 + kBackwardSmallBytes;
};

/// Calls function.operator()<kHeadDim>() for a head size that the Hopper kernels are compiled for, else returns false.
template <typename Function>
bool dispatch_attention_hopper(int64_t head_dim, const Function& function) {
  switch (head_dim) {
    case 64: function.template operator()<64>(); return true;
    case 80: function.template operator()<80>(); return true;
    case 128: function.template operator()<128>(); return true;
    default: return false;
  }
}

/// A block's share of the backward pass in one kernel: keys, and the tiles of queries that see any of them; none if
/// `key_count` is 0. Every
/// sequence is cut into tiles of queries from its first one on.
struct alignas(16) AttentionBackwardTile {
  int32_t key_row;
  int32_t key_count;
  int32_t query_row;    ///< of the first tile of queries
  int32_t query_count;  ///< from that row on; 0: no query sees the keys
  int32_t seen_before;  ///< query i from that row on sees the keys j <= i + seen_before; may be negative
  int32_t query_tile;   ///< the number of that tile, counted over all sequences
  int32_t key_first;    ///< the number of row `key_row` in its sequence
  int32_t unused;
};

struct AttentionBackwardTiles {
  std::vector<AttentionQueryTile> queries;  ///< sequence after sequence
  std::vector<AttentionBackwardTile> keys;  ///< seen by most queries first; of a sequence, earlier ones first
};
AttentionBackwardTiles attention_backward_tiles(const PassSequences& sequences, int queries, int keys);

/// Memory of attention_backward_hopper besides its operands.
struct AttentionBackwardSums {
  float* query_gradients =
      nullptr;                 ///< [query tile, head, queries of a tile * head_dim], in an order of the kernel's own
  uint32_t* ticket = nullptr;  ///< how many blocks have begun; `turns` follow it
  uint32_t* turns = nullptr;   ///< [query tile, head]: how many blocks have added their share
  const AttentionBackwardTile* tiles = nullptr;
};

template <int kHeadDim>
void launch_attention_forward_hopper(Context& context, DType dtype, AttentionParams params,
                                     const SequenceTable<AttentionQueryTile>& tiles);
/// On tiles of kBackwardQueries and kBackwardKeys; `sums` are given but for the tiles.
template <int kHeadDim>
void launch_attention_backward_hopper(Context& context, DType dtype, AttentionParams params, AttentionBackwardSums sums,
                                      const SequenceTable<AttentionQueryTile>& query_tiles,
                                      const SequenceTable<AttentionBackwardTile>& key_tiles);

}  // namespace cbtm::cuda
