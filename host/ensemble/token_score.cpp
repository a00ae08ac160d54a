#include "cbtm/ensemble/token_score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace cbtm {

TokenScore token_score(std::span<const float> log_probabilities, int32_t id, int64_t top) {
  TokenScore score{.log_probability = log_probabilities[static_cast<size_t>(id)]};
  const auto likelier = [](const std::pair<int32_t, float>& a, const std::pair<int32_t, float>& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  };
  // A heap of the best so far, the least likely of them in front.
  for (size_t token = 0; top > 0 && token < log_probabilities.size(); ++token) {
    const std::pair<int32_t, float> candidate(static_cast<int32_t>(token), log_probabilities[token]);
    if (static_cast<int64_t>(score.top.size()) == top) {
      if (!likelier(candidate, score.top.front())) continue;
      std::pop_heap(score.top.begin(), score.top.end(), likelier);
      score.top.pop_back();
    }
    score.top.push_back(candidate);
    std::push_heap(score.top.begin(), score.top.end(), likelier);
  }
  std::sort(score.top.begin(), score.top.end(), likelier);
  return score;
}

void to_log_probabilities(std::span<float> logits) {
  const double highest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
  const double norm = highest + std::log(sum);
  for (float& logit : logits) logit = static_cast<float>(static_cast<double>(logit) - norm);
}

}  // namespace cbtm
