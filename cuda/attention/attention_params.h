#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/device/attention_operands.h"
#include "runtime/context.h"
#include "runtime/sequence_tables.h"

namespace cbtm::cuda {

constexpr float kLog2e = 1.4426950408889634f;

/// A block's share of the queries (forward pass, gradient of the queries); none if `query_count` is 0. Query i of the
/// tile, row `query_row` + i of the operands, sees the first `first_visible` + i keys of its sequence, whose key 0 is
/// row `key_row` (or, in a paged cache, whose row of the block table is `key_row`).
struct alignas(16) AttentionQueryTile {
  int32_t query_row;
  int32_t query_count;
  int32_t key_row;
  int32_t first_visible;
};

/// A block's share of the keys (gradients of keys and values); none if `key_count` is 0. Key j of the tile, row
/// `key_row` + j, is key `key_first` + j of its sequence; the queries that see any of them are among the rows
/// `query_row` + i, 0 <= i < `query_count`, of which the first is a multiple of 16 rows behind its sequence's; i sees
/// j <= i + `visible_offset`.
struct alignas(16) AttentionKeyTile {
  int32_t key_row;
  int32_t key_count;
  int32_t key_first;
  int32_t query_row;
  int32_t query_count;
  int32_t visible_offset;
  int32_t unused[2];
};

/// Where the rows of an operand lie: element (row, column) at data + row * stride + column (in elements).
struct AttentionOperand {
  const void* data = nullptr;
  int64_t stride = 0;
};

/// A Dropout as the kernels use it (groups, words and bytes: AttentionShape).
struct AttentionDropout {
  uint64_t seed = 0;
  int64_t first_row = 0;
  int64_t key_groups = 0;  ///< dropout_columns / 4
  uint32_t step = 0;
  uint32_t site = 0;
  uint32_t limit = 0;  ///< bytes below it are dropped; 0: no dropout
  float kept_scale = 1;
  const int64_t* place = nullptr;  ///< on the device: {step, first_row} in place of those above; or null
};

/// Arguments of every attention kernel, passed by value.
struct AttentionParams {
  const AttentionQueryTile* query_tiles = nullptr;
  const AttentionKeyTile* key_tiles = nullptr;
  AttentionOperand query, key, value, output, output_gradient;
  AttentionOperand query_gradient, key_gradient, value_gradient;  ///< written
  float* log_sum_exp = nullptr;                                   ///< [query rows, num_heads], or null
  int64_t log_sum_exp_stride = 0;
  const float* row_log_sum_exp = nullptr;  ///< [num_heads, query_rows]: of the backward pass
  const float* row_term = nullptr;         ///< [num_heads, query_rows]: Σ output · output_gradient
  int64_t query_rows = 0;
  int64_t key_rows = 0;                  ///< without a cache
  const int32_t* block_table = nullptr;  ///< keys and values are pages of a cache (forward only), or null
  int64_t block_table_stride = 0;
  int32_t page_size = 1;
  int32_t num_heads = 0;
  int32_t head_dim = 0;
  float scale = 1;
  bool vectorised = false;  ///< rows of every operand start at multiples of 16 bytes
  AttentionDropout dropout;
};

inline AttentionOperand operand_of(ConstTensorView view) { return {view.data, view.row_stride}; }

/// Rows start at multiples of 16 bytes, and so does every head in them.
inline bool rows_aligned(ConstTensorView view, int64_t head_dim) {
  const int64_t vector = 16 / dtype_bytes(view.dtype);
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride % vector == 0 && head_dim % vector == 0;
}

/// The parameters that follow from the shape alone.
AttentionParams attention_params(const AttentionShape& shape);

/// Tiles of `tile` queries over the sequences, those with most keys first (the last blocks of a launch are then the
/// short ones).
std::vector<AttentionQueryTile> attention_query_tiles(const PassSequences& sequences, int tile);

/// Tiles of `tile` keys, those seen by most queries first. Every key row lies in one tile.
std::vector<AttentionKeyTile> attention_key_tiles(const PassSequences& sequences, int tile);

/// The kinds of tables that attention keeps of a pass's sequences: the first number of their keys.
enum class AttentionTable : int64_t {
  query_tiles,
  key_tiles,
  hopper_query_tiles,
  hopper_key_tiles,
  cached_query_tiles,
  new_tokens,
  pieces,
  joined_queries,
};
inline SequenceTables::Key table_key(AttentionTable table, int64_t first, int64_t second = 0, int64_t third = 0) {
  return {static_cast<int64_t>(table), first, second, third};
}

/// Without a cache.
inline SequenceTables& sequence_tables(Context& context, const AttentionShape& shape) {
  return context.sequence_tables(
      {.query_offsets = shape.query_offsets, .key_offsets = shape.key_offsets, .cached_lengths = {}});
}

/// Throw Error where this device cannot compute attention in `dtype`, and for heads wider than any kernel takes.
void require_attention_dtype(const Context& context, DType dtype);
void require_attention_head_dim(int64_t head_dim);

}  // namespace cbtm::cuda
