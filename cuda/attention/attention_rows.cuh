#pragma once

#include "attention/attention_params.h"

namespace cbtm::cuda {

/// The rows of one head of an operand, from a tile's first row on; those from `count` on read as zero. Keys and values
/// of a paged cache are found page by page.
template <typename Element>
struct Rows {
  const Element* first;  ///< column 0 of the head, in the tile's first row (paged: in row 0 of the cache)
  int64_t stride;
  int count;
  const int32_t* pages = nullptr;  ///< of the sequence; null: rows follow each other
  int page_size = 1;
  int first_key = 0;  ///< paged: number of the tile's first row within its sequence

  __device__ __forceinline__ const Element* row(int r) const {
    if (pages == nullptr) return first + r * stride;
    const int key = first_key + r;
    return first + (static_cast<int64_t>(pages[key / page_size]) * page_size + key % page_size) * stride;
  }
};

template <typename Element>
__device__ __forceinline__ Rows<Element> rows_of(const AttentionOperand& operand, int64_t row, int count, int column) {
  return {static_cast<const Element*>(operand.data) + row * operand.stride + column, operand.stride, count};
}

/// Keys (or values) first_key .. first_key + count of the sequence of a tile of queries.
template <typename Element>
__device__ __forceinline__ Rows<Element> key_rows_of(const AttentionParams& params, const AttentionOperand& operand,
                                                     const AttentionQueryTile& tile, int first_key, int count,
                                                     int column) {
  if (params.block_table == nullptr)
    return rows_of<Element>(operand, static_cast<int64_t>(tile.key_row) + first_key, count, column);
  Rows<Element> rows = rows_of<Element>(operand, 0, count, column);
  rows.pages = params.block_table + tile.key_row * params.block_table_stride;
  rows.page_size = params.page_size;
  rows.first_key = first_key;
  return rows;
}

}  // namespace cbtm::cuda
