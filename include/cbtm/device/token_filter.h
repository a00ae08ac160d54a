#pragma once

#include <cstdint>
#include <span>

namespace cbtm {

/// What next-token sampling leaves of a distribution, in transformers' order: temperature, top-k, top-p
/// (docs/opt-format.md, 'Sampling').
struct TokenFilter {
  double temperature = 1;
  int64_t top_k = 0;  ///< 0: no limit; ties with the k-th are kept
  /// The smallest set of most likely tokens whose mass reaches this is kept, at least one token. Of equals the lower
  /// ids come first.
  double top_p = 1;

  bool operator==(const TokenFilter&) const = default;
};

/// Throws the Error of scores that are no numbers, or infinite.
[[noreturn]] void fail_scores_not_finite();

/// Turns scores (logits or log-probabilities) on the host into the probabilities that sampling draws from, in place, at
/// any temperature above 0. The full list is never sorted. Throws Error if a score is not a number, or the largest is
/// infinite.
void filtered_distribution(std::span<float> scores, const TokenFilter& filter);

/// The token of the largest score; of equals the first. Throws Error as filtered_distribution does.
int32_t most_likely_token(std::span<const float> scores);

/// The token at which the running sum of the probabilities, in order of ids, passes `drawn` in [0, 1).
int32_t token_at(std::span<const float> probabilities, double drawn);

}  // namespace cbtm
