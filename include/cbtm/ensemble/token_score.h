#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace cbtm {

/// How likely a token was where it stands, and which tokens were the most likely there.
struct TokenScore {
  float log_probability = 0;                   ///< natural logarithm; may be -infinity
  std::vector<std::pair<int32_t, float>> top;  ///< tokens and log-probabilities, the most likely first
};

/// The score of token `id` with the `top` most likely tokens. Of equals the lower ids come first. The floats are those
/// of `log_probabilities`, so that a token is the most likely one exactly if its number equals that of top[0].
TokenScore token_score(std::span<const float> log_probabilities, int32_t id, int64_t top);

/// Turns logits into log-probabilities, in place.
void to_log_probabilities(std::span<float> logits);

}  // namespace cbtm
