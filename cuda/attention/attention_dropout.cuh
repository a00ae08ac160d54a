#pragma once

#include "attention/attention_params.h"
#include "cbtm/base/philox.h"

namespace cbtm::cuda {

/// The dropout of this run of the kernel: step and first row as they stand in its place, if it has one.
__device__ __forceinline__ AttentionDropout attention_dropout(const AttentionParams& params) {
  AttentionDropout dropout = params.dropout;
  if (dropout.place != nullptr) {
    dropout.step = static_cast<uint32_t>(dropout.place[0]);
    dropout.first_row = dropout.place[1];
  }
  return dropout;
}

/// Element number of the probability of key 0, for the query in row `query_row`: a multiple of 4.
__device__ __forceinline__ int64_t attention_dropout_row(const AttentionDropout& dropout, int num_heads, int query_row,
                                                         int head) {
  return ((dropout.first_row + query_row) * num_heads + head) * dropout.columns;
}

/// Which of the probabilities of keys 4 * group .. 4 * group + 3 are kept: bit k for key 4 * group + k.
__device__ __forceinline__ uint32_t attention_kept(const AttentionDropout& dropout, int64_t row_element, int group) {
  const int64_t counter = row_element / 4 + group;
  const PhiloxCounter words = philox(
      PhiloxCounter{{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), dropout.site, dropout.step}},
      dropout.seed);
  uint32_t kept = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) kept |= ((words.word[k] >> 8) >= dropout.threshold ? 1u : 0u) << k;
  return kept;
}

}  // namespace cbtm::cuda
