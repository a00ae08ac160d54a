#include "cbtm/model/sampling.h"

#include <algorithm>
#include <vector>

#include "cbtm/device/token_filter.h"

namespace cbtm {
namespace {

void penalise_repetition(std::span<float> scores, std::span<const int32_t> seen, double penalty) {
  if (penalty == 1) return;
  std::vector<int32_t> unique(seen.begin(), seen.end());
  std::sort(unique.begin(), unique.end());
  unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
  for (const int32_t id : unique) {
    float& score = scores[static_cast<size_t>(id)];
    score = static_cast<float>(score < 0 ? score * penalty : score / penalty);
  }
}

}  // namespace

void next_token_distribution(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options) {
  penalise_repetition(scores, seen, options.repetition_penalty);
  filtered_distribution(scores, options.filter);
}

int32_t choose_token(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                     PhiloxStream& random) {
  if (options.greedy) {
    penalise_repetition(scores, seen, options.repetition_penalty);
    return most_likely_token(scores);
  }
  next_token_distribution(scores, seen, options);
  return token_at(scores, random.next_uniform());
}

}  // namespace cbtm
