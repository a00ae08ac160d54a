#include "cbtm/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace cbtm {
namespace {

constexpr float kFiltered = -std::numeric_limits<float>::infinity();

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

void keep_top_k(std::span<float> scores, int64_t top_k) {
  if (top_k <= 0 || top_k >= static_cast<int64_t>(scores.size())) return;
  std::vector<float> copy(scores.begin(), scores.end());
  std::nth_element(copy.begin(), copy.begin() + (top_k - 1), copy.end(), std::greater<>());
  const float threshold = copy[static_cast<size_t>(top_k - 1)];
  for (float& score : scores)
    if (score < threshold) score = kFiltered;
}

void to_probabilities(std::span<float> scores) {
  const float highest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (float& score : scores) {
    score = std::exp(score - highest);
    sum += static_cast<double>(score);
  }
  for (float& score : scores) score = static_cast<float>(static_cast<double>(score) / sum);
}

/// Zeroes all but the smallest set of most likely tokens with mass >= top_p. Selects by halves: only the part of the
/// order that matters is found out.
void keep_top_p(std::span<float> probabilities, double top_p) {
  if (top_p >= 1) return;
  std::vector<int32_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    const float pa = probabilities[static_cast<size_t>(a)];
    const float pb = probabilities[static_cast<size_t>(b)];
    return pa != pb ? pa > pb : a < b;
  };
  size_t begin = 0;
  size_t end = order.size();
  double mass_before = 0;
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(order.begin() + static_cast<int64_t>(begin), order.begin() + static_cast<int64_t>(middle),
                     order.begin() + static_cast<int64_t>(end), likelier);
    double mass = 0;
    for (size_t i = begin; i < middle; ++i) mass += static_cast<double>(probabilities[static_cast<size_t>(order[i])]);
    if (mass_before + mass >= top_p) {
      end = middle;
    } else {
      mass_before += mass;
      begin = middle;
    }
  }
  // order[0 .. begin] is the set: without its last member the mass does not reach top_p.
  double kept = 0;
  for (size_t i = 0; i <= begin; ++i) kept += static_cast<double>(probabilities[static_cast<size_t>(order[i])]);
  for (size_t i = begin + 1; i < order.size(); ++i) probabilities[static_cast<size_t>(order[i])] = 0;
  for (float& probability : probabilities) probability = static_cast<float>(static_cast<double>(probability) / kept);
}

}  // namespace

void next_token_distribution(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options) {
  penalise_repetition(scores, seen, options.repetition_penalty);
  if (options.temperature != 1)
    for (float& score : scores) score = static_cast<float>(static_cast<double>(score) / options.temperature);
  keep_top_k(scores, options.top_k);
  to_probabilities(scores);
  keep_top_p(scores, options.top_p);
}

int32_t choose_token(std::span<float> scores, std::span<const int32_t> seen, const SamplingOptions& options,
                     PhiloxStream& random) {
  if (options.greedy) {
    penalise_repetition(scores, seen, options.repetition_penalty);
    return static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
  }
  next_token_distribution(scores, seen, options);
  const double drawn = random.next_uniform();
  double mass = 0;
  int32_t last_possible = 0;
  for (size_t id = 0; id < scores.size(); ++id) {
    if (scores[id] <= 0) continue;
    last_possible = static_cast<int32_t>(id);
    mass += static_cast<double>(scores[id]);
    if (drawn < mass) break;
  }
  return last_possible;
}

}  // namespace cbtm
