#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/device/token_filter.h"

namespace cbtm {

/// How the next token is chosen from its scores, in transformers' order: repetition penalty, the other penalties and
/// the bias, temperature, top-k, top-p (docs/opt-format.md, 'Sampling').
struct SamplingOptions {
  bool greedy = false;
  TokenFilter filter;             ///< not used if greedy
  double repetition_penalty = 1;  ///< scores of tokens in `seen`: divided by it where positive, else multiplied
  // Of the tokens generated so far: taken from a token's score once for each time that it is there, and once if it is
  // there at all.
  double frequency_penalty = 0;
  double presence_penalty = 0;
  std::vector<std::pair<int32_t, float>> bias;  ///< added to the scores of these tokens, each named once

  /// Whether scores are changed before they are filtered.
  bool changes_scores() const {
    return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0 || !bias.empty();
  }
};

/// Turns scores (logits or log-probabilities) into the probabilities that sampling draws from, in place. The first
/// `prompt_tokens` of `seen` are the prompt, the others were generated. O(vocab_size): the full list is never sorted.
void next_token_distribution(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                             size_t prompt_tokens = 0);

/// Chooses a token: the first maximum if greedy (after penalties and bias), else a draw. Changes `scores`.
int32_t choose_token(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                     PhiloxStream& random, size_t prompt_tokens = 0);

}  // namespace cbtm
