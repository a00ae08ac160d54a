#pragma once

#include "cbtm/device/tensor.h"

namespace cbtm {

/// out[r] = token_table[ids[r]] (if given) + position_table[positions[r]] (if given) + out[r] (if accumulate).
struct EmbeddingForward {
  ConstTensorView ids;          ///< int32 [1, rows], each in [0, token_table.rows): checked by the caller on the host
  ConstTensorView token_table;  ///< [vocab_size, width], or empty
  ConstTensorView positions;    ///< int32 [1, rows]
  ConstTensorView position_table;  ///< [max_position_embeddings + 2, width], or empty
  TensorView out;                  ///< [rows, width]
  bool accumulate = false;
  /// float32 [1, vocab_size] of an int8 token_table, whose row t stands for token_table_scales[t] * token_table[t];
  /// else empty. Then no position_table: it is added by a second call.
  ConstTensorView token_table_scales = {};
};

/// out[r] = source[rows[r]], the same bits, of any type.
struct GatherRows {
  ConstTensorView source;  ///< [n, width]
  ConstTensorView rows;    ///< int32 [1, count], each in [0, n): checked by the caller on the host
  TensorView out;          ///< [count, width] of source's type
};

/// Adds out_gradient[r] to token_table_gradient[ids[r]] and position_table_gradient[positions[r]], in a fixed order.
struct EmbeddingBackward {
  ConstTensorView ids;
  ConstTensorView positions;
  ConstTensorView out_gradient;
  TensorView token_table_gradient;     ///< float32, or empty
  TensorView position_table_gradient;  ///< float32, or empty
};

}  // namespace cbtm
