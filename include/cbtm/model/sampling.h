#pragma once

#include <cstdint>
#include <span>

#include "cbtm/base/philox.h"

namespace cbtm {

/// How the next token is chosen from its scores, in transformers' order: repetition penalty, temperature, top-k, top-p
/// (docs/opt-format.md, 'Sampling').
struct SamplingOptions {
  bool greedy = false;
  double temperature = 1;
  int64_t top_k = 0;              ///< 0: no limit; ties with the k-th are kept
  double top_p = 1;               ///< smallest set of most likely tokens whose mass reaches this; at least one
  double repetition_penalty = 1;  ///< scores of tokens in `seen`: divided by it where positive, else multiplied
};

/// Turns scores (logits or log-probabilities) into the probabilities that sampling draws from, in place.
/// O(vocab_size): the full list is never sorted.
void next_token_distribution(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options);

/// Chooses a token: the first maximum if greedy (after the repetition penalty), else a draw. Changes `scores`.
int32_t choose_token(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                     PhiloxStream& random);

}  // namespace cbtm
