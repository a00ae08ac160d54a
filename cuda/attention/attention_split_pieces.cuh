// How the kernels of attention_split.cu reach what is in their pieces.

#pragma once

#include "attention/attention_split.h"
#include "cbtm/base/error.h"
#include "elements.cuh"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = kSplitWarps;
constexpr int kThreads = 32 * kWarps;

/// Largest score (times log2 e) and Σ 2^(score - largest).
struct alignas(8) SoftmaxState {
  float largest;
  float sum;
};

struct Params {
  const Piece* __restrict__ pieces;
  const SplitQuery* __restrict__ queries;
  int query_count;
  const int32_t* __restrict__ block_table;
  int64_t block_table_stride;
  int page_size;
  AttentionOperand query, new_key, new_value, output;
  AttentionOperand keys, values;  ///< of the cache; written too
  float* sums;                    ///< [slot][head][rows][sum_stride]: Σ 2^(score - largest) value
  SoftmaxState* states;           ///< [slot][head][rows]
  int rows;                       ///< most queries of a sequence in this call
  int sum_stride;                 ///< head_dim rounded up to whole float4
  int num_heads, head_dim;
  float scale;  ///< of the scores, times log2 e
  bool vectorised;
};

/// How a head lies across the lanes of a group: vector v of a lane holds columns (v * kGroup + lane) * kLength onwards.
template <typename Element, int kGroup, int kVectors>
struct Lanes {
  static constexpr int kLength = 16 / sizeof(Element);
  static constexpr int kColumns = kLength * kVectors;  ///< of a lane
  static constexpr int kQuarters = kColumns / 4;       ///< float4 of a lane's sums
  static constexpr int kGroups = 32 / kGroup;          ///< keys that a warp reads at once
  /// Shared memory holds a row's sums quarter by quarter, so that lanes side by side write side by side; the quarters
  /// of one vector lie 16 banks apart, so that reading column by column touches every bank too.
  static constexpr int kQuarterStride = 4 * kGroup + (kLength == 8 ? 16 : 0);
  static constexpr int kRowStride = kQuarters * kQuarterStride;

  static __device__ int column_of(int lane, int vector) { return (vector * kGroup + lane) * kLength; }
  static __device__ int place_of(int column) {
    const int lane = column / kLength % kGroup, vector = column / (kLength * kGroup);
    const int quarter = vector * (kLength / 4) + column % kLength / 4;
    return quarter * kQuarterStride + lane * 4 + column % 4;
  }
};

/// Row of the cache that holds a token of the sequence.
__device__ int cache_row(const Params& p, int sequence, int token) {
  return p.block_table[sequence * p.block_table_stride + token / p.page_size] * p.page_size + token % p.page_size;
}

template <typename Element>
__device__ const Element* element_at(const AttentionOperand& operand, int64_t row, int column) {
  return static_cast<const Element*>(operand.data) + row * operand.stride + column;
}

/// Copies those of the new tokens' keys and values that belong to this piece, this head's columns, into their pages.
template <typename Element>
__device__ void append_new(const Params& p, const Piece& piece, int column) {
  if (piece.appended != 0) return;
  constexpr int kLength = 16 / sizeof(Element);
  const int first = max(piece.length - piece.query_count, piece.first_key);
  const int tokens = piece.first_key + piece.key_count - first;
  const int steps = p.vectorised ? p.head_dim / kLength : p.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < tokens * steps; i += kThreads) {
    const int token = first + i / steps;
    const int64_t from = piece.query_row + token - (piece.length - piece.query_count);
    const int64_t to = cache_row(p, piece.sequence, token);
    const int at = column + i % steps * (p.vectorised ? kLength : 1);
    const Element* sources[] = {element_at<Element>(p.new_key, from, at), element_at<Element>(p.new_value, from, at)};
    Element* targets[] = {const_cast<Element*>(element_at<Element>(p.keys, to, at)),
                          const_cast<Element*>(element_at<Element>(p.values, to, at))};
#pragma unroll
    for (int operand = 0; operand < 2; ++operand)
      if (p.vectorised)
        *reinterpret_cast<uint4*>(targets[operand]) = *reinterpret_cast<const uint4*>(sources[operand]);
      else
        *targets[operand] = *sources[operand];
  }
}

/// 2^(score - largest), 0 where nothing has been seen yet (no difference of infinities).
__device__ float weight_of(float score, float largest) { return largest == -INFINITY ? 0.0f : exp2f(score - largest); }

}  // namespace
}  // namespace cbtm::cuda
