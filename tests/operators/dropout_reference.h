#pragma once

#include <algorithm>
#include <cstdint>

#include "cbtm/base/philox.h"
#include "cbtm/device/attention_operands.h"
#include "cbtm/device/dropout.h"

namespace cbtm {

/// What dropout multiplies by where byte `byte` of word `word` of group `n` decides: 0 or 256 / (256 - limit).
inline double decided_multiplier(const Dropout& dropout, int64_t n, int64_t word, int64_t byte) {
  if (!dropout.active()) return 1;
  const auto number = static_cast<uint64_t>(n);
  const PhiloxCounter words = philox<7>(
      {{static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32), dropout.site, dropout.step}}, dropout.seed);
  const int64_t limit = static_cast<int64_t>(static_cast<double>(dropout.probability) * 256 + 0.5);
  if (((words.word[word] >> (8 * byte)) & 255) < limit) return 0;
  return 256.0 / static_cast<double>(256 - limit);
}

/// Of element (row, column) of a matrix of `width` columns (cbtm/device/dropout.h).
inline double dropout_multiplier(const Dropout& dropout, int64_t row, int64_t column, int64_t width) {
  return decided_multiplier(dropout, (dropout.first_row + row) * ((width + 15) / 16) + column / 16, column % 16 / 4,
                            column % 4);
}

/// Of the attention probability of the query in `query_row` and key j of its sequence (AttentionShape).
inline double dropout_multiplier(const AttentionShape& shape, int64_t query_row, int64_t j, int64_t head) {
  const int64_t sequence_row = *(std::ranges::upper_bound(shape.query_offsets, query_row) - 1);
  const int64_t i = query_row - sequence_row;
  const int64_t row = shape.dropout.first_row + query_row - i % 16;
  const int64_t n =
      ((row * 4 + i % 8 / 2) * shape.num_heads + head) * (shape.dropout_columns / 4) + j / 16 * 4 + j % 8 / 2;
  return decided_multiplier(shape.dropout, n, i % 2 + 2 * (j % 2), i % 16 / 8 + 2 * (j % 16 / 8));
}

}  // namespace cbtm
