#pragma once

#include "attention/attention_params.h"
#include "cbtm/device/dropout.h"

namespace cbtm::cuda {

// Dropout of attention probabilities (AttentionShape says which byte decides). A lane that holds an accumulator of
// 16 x 16 probabilities, rows g and g + 8, columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, needs two of the four words of
// one group; the lane of row g ^ 1 needs the other two. Over two such blocks each of them draws one, and they exchange
// two words. That holds for queries as rows and for keys as rows.

/// The dropout of this run of the kernel: step and first row as they stand in its place, if it has one.
__device__ __forceinline__ AttentionDropout attention_dropout(const AttentionParams& params) {
  AttentionDropout dropout = params.dropout;
  if (dropout.place != nullptr) {
    dropout.step = static_cast<uint32_t>(dropout.place[0]);
    dropout.first_row = dropout.place[1];
  }
  return dropout;
}

/// Group of key 0 and the queries 2 * pair, + 1, + 8 and + 9 of the block of 16 queries that begins in `block_row`.
__device__ __forceinline__ int64_t attention_dropout_group(const AttentionDropout& dropout, int num_heads,
                                                           int64_t block_row, int pair, int head) {
  return (((dropout.first_row + block_row) * 4 + pair) * num_heads + head) * dropout.key_groups;
}

__device__ __forceinline__ PhiloxCounter attention_decisions(const AttentionDropout& dropout, int64_t group) {
  return dropout_group(static_cast<uint64_t>(group), dropout.site, dropout.step, dropout.seed);
}

/// Whether byte `byte` of a word keeps its probability.
__device__ __forceinline__ bool attention_keeps(const AttentionDropout& dropout, uint32_t word, int byte) {
  return word << (24 - 8 * byte) >= dropout.limit << 24;
}

/// A lane's words about a block of 16 x 16: `even` and `odd` columns, where queries are rows (words g % 2 and g % 2 +
/// 2), or even and odd queries, where keys are (words 2 (g % 2) and 2 (g % 2) + 1).
struct AttentionDecisions {
  uint32_t of_column[2];
};

/// Of a lane's own call.
template <bool kKeysAreRows>
__device__ __forceinline__ AttentionDecisions attention_decisions_of(const PhiloxCounter& words, bool odd_row) {
  if (kKeysAreRows) return {{odd_row ? words.word[2] : words.word[0], odd_row ? words.word[3] : words.word[1]}};
  return {{odd_row ? words.word[1] : words.word[0], odd_row ? words.word[3] : words.word[2]}};
}

/// Of two blocks, with the groups `first` and `second` for this lane and for that of row g ^ 1: lanes of even rows draw
/// the first one, those of odd rows the second. All lanes of a warp call it.
template <bool kKeysAreRows>
__device__ __forceinline__ void attention_decisions_of_two(AttentionDecisions (&blocks)[2],
                                                           const AttentionDropout& dropout, int64_t first,
                                                           int64_t second) {
  const bool odd_row = (threadIdx.x & 4) != 0;
  const PhiloxCounter words = attention_decisions(dropout, odd_row ? second : first);
  const AttentionDecisions own = attention_decisions_of<kKeysAreRows>(words, odd_row);
  const AttentionDecisions others = attention_decisions_of<kKeysAreRows>(words, !odd_row);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t received = __shfl_xor_sync(0xffffffffu, others.of_column[i], 4);
    blocks[0].of_column[i] = odd_row ? received : own.of_column[i];
    blocks[1].of_column[i] = odd_row ? own.of_column[i] : received;
  }
}

/// For thread (x, y) = (threadIdx % 16, threadIdx / 16) of the general kernels, which holds rows 4 y .. 4 y + 3 and
/// columns x + 16 j of 64 x 64 probabilities: bit 4 i + j where that of row 4 y + i is kept. `query_row` is the row of
/// the first query, a multiple of 16 behind its sequence's; `first_key` is a multiple of 16. Four lanes need the same
/// eight groups: each draws those of one j.
template <bool kKeysAreRows>
__device__ __forceinline__ uint32_t kept_of_thread(const AttentionDropout& dropout, int num_heads, int head,
                                                   int64_t query_row, int first_key) {
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
  const int drawn_j = x % 2 + x / 8 * 2;
  uint32_t drawn = 0;
  for (int pair = 0; pair < 2; ++pair) {
    const int row_pair = y % 2 * 2 + pair;
    const int64_t block_row = query_row + 16 * (kKeysAreRows ? drawn_j : y / 4);
    const int64_t group =
        attention_dropout_group(dropout, num_heads, block_row, kKeysAreRows ? x % 8 / 2 : row_pair, head) +
        first_key / 4 + (kKeysAreRows ? y / 4 * 4 + row_pair : drawn_j * 4 + x % 8 / 2);
    const PhiloxCounter words = attention_decisions(dropout, group);
#pragma unroll
    for (int w = 0; w < 4; ++w)
#pragma unroll
      for (int byte = 0; byte < 4; ++byte)
        drawn |= (attention_keeps(dropout, words.word[w], byte) ? 1u : 0u) << (16 * pair + 4 * w + byte);
  }
  uint32_t kept = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t of_block =
        __shfl_sync(0xffffffffu, drawn, (static_cast<int>(threadIdx.x) & 22) | (j & 1) | (j & 2) << 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int word = kKeysAreRows ? x % 2 + 2 * (i % 2) : i % 2 + 2 * (x % 2);
      const int byte = kKeysAreRows ? x / 8 + 2 * (y % 4 / 2) : y % 4 / 2 + 2 * (x / 8);
      kept |= (of_block >> (16 * (i / 2) + 4 * word + byte) & 1u) << (4 * i + j);
    }
  }
  return kept;
}

}  // namespace cbtm::cuda
