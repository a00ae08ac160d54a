#pragma once

#include <cstdint>
#include <span>

#include "cbtm/base/philox.h"
#include "cbtm/device/token_filter.h"

namespace cbtm {

/// How the next token is chosen from its scores, in transformers' order: repetition penalty, temperature, top-k, top-p
/// (docs/opt-format.md, 'Sampling').
struct SamplingOptions {
  bool greedy = false;
  TokenFilter filter;             ///< not used if greedy
  double repetition_penalty = 1;  ///< scores of tokens in `seen`: divided by it where positive, else multiplied
};

/// Turns scores (logits or log-probabilities) into the probabilities that sampling draws from, in place.
/// O(vocab_size): the full list is never sorted.
void next_token_distribution(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options);

/// Chooses a token: the first maximum if greedy (after the repetition penalty), else a draw. Changes `scores`.
int32_t choose_token(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                     PhiloxStream& random);

}  // namespace cbtm
