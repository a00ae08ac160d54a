#include "cbtm/model/sampling.h"

#include <algorithm>
#include <map>
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

void penalise_generated(std::span<float> scores, std::span<const int32_t> generated, const SamplingOptions& options) {
  if (options.frequency_penalty == 0 && options.presence_penalty == 0) return;
  std::map<int32_t, int64_t> counts;
  for (const int32_t id : generated) ++counts[id];
  for (const auto& [id, count] : counts)
    scores[static_cast<size_t>(id)] -=
        static_cast<float>(options.frequency_penalty * static_cast<double>(count) + options.presence_penalty);
}

void change_scores(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                   size_t prompt_tokens) {
  penalise_repetition(scores, seen, options.repetition_penalty);
  penalise_generated(scores, seen.subspan(prompt_tokens), options);
  for (const auto& [id, value] : options.bias) scores[static_cast<size_t>(id)] += value;
}

}  // namespace

void next_token_distribution(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                             size_t prompt_tokens) {
  change_scores(scores, seen, options, prompt_tokens);
  filtered_distribution(scores, options.filter);
}

int32_t choose_token(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                     PhiloxStream& random, size_t prompt_tokens) {
  if (options.greedy) {
    change_scores(scores, seen, options, prompt_tokens);
    return most_likely_token(scores);
  }
  next_token_distribution(scores, seen, options, prompt_tokens);
  return token_at(scores, random.next_uniform());
}

}  // namespace cbtm
