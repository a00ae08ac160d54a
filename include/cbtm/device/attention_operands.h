#pragma once

#include <cstdint>
#include <span>

#include "cbtm/device/dropout.h"
#include "cbtm/device/row_sums.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

/// Causal attention over packed sequences, all heads. Sequence s has the query rows
/// query_offsets[s] .. query_offsets[s+1] and the key rows key_offsets[s] .. key_offsets[s+1].
/// Its query i sees its keys j <= i + keys - queries.
///
/// The score is (scale * q) . k, softmax is in float32, and dropout is on the probabilities. A group of its decisions
/// has four queries and four keys of a block of 16 x 16, those that tensor cores give to two lanes, whether queries or
/// keys are the rows. Query i and key j of a sequence, both counted within it, share a group with the same i / 16, j /
/// 16, i % 8 / 2 and j % 8 / 2; theirs is word i % 2 + 2 (j % 2), byte i % 16 / 8 + 2 (j % 16 / 8), of group
///
///   N = ((R * 4 + i % 8 / 2) * num_heads + head) * (dropout_columns / 4) + j / 16 * 4 + j % 8 / 2,
///
/// R = first_row + the row of query i - i % 16.
/// Head h has the columns [h * head_dim, (h+1) * head_dim) of every operand.
struct AttentionShape {
  std::span<const int32_t> query_offsets;  ///< host memory, sequence_count + 1
  std::span<const int32_t> key_offsets;    ///< the same span as query_offsets in training
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  float scale = 1;
  Dropout dropout;
  int64_t dropout_columns = 0;  ///< >= longest key sequence, a multiple of 16, the same in every call of a run
};
struct AttentionForward {
  AttentionShape shape;
  ConstTensorView query;       ///< [query rows, num_heads * head_dim], any row stride (a slice of a fused qkv matrix)
  ConstTensorView key, value;  ///< [key rows, num_heads * head_dim]
  TensorView output;           ///< [query rows, num_heads * head_dim]
  TensorView log_sum_exp;      ///< float32 [query rows, num_heads], natural log; or empty in inference
};
struct AttentionBackward {
  AttentionShape shape;
  ConstTensorView query, key, value, output, log_sum_exp, output_gradient;
  TensorView query_gradient, key_gradient, value_gradient;  ///< written, not accumulated; gradients of the unscaled q
};

/// The sequences of a pass, as its attention operators get them. `key_offsets`: empty with a cache, as in
/// AttentionCached; `cached_lengths`: empty without one.
struct PassSequences {
  std::span<const int32_t> query_offsets, key_offsets, cached_lengths;
};

/// A paged key-value cache of one layer: token t of a sequence lies in row
/// block_table[sequence][t / page_size] * page_size + t % page_size of `keys` and `values`.
struct KeyValueCache {
  TensorView keys;  ///< [page_count * page_size, num_heads * head_dim]
  TensorView values;
  int64_t page_size = 0;
  ConstTensorView block_table;  ///< int32 [sequence_count, pages_max]
};

/// Writes the new keys and values into the cache, then attention of the new queries over everything cached:
/// rows query_offsets[s] .. query_offsets[s+1] are the newest tokens of sequence s, which then holds
/// cached_lengths[s] tokens, the new ones included. No dropout.
struct AttentionCached {
  AttentionShape shape;                     ///< key_offsets unused
  std::span<const int32_t> cached_lengths;  ///< host memory, sequence_count
  KeyValueCache cache;
  ConstTensorView query, key, value;  ///< [new rows, num_heads * head_dim]
  TensorView output;
  RowSums row_sums = RowSums::any;
};

}  // namespace cbtm
