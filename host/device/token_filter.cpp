#include "cbtm/device/token_filter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr float kFiltered = -std::numeric_limits<float>::infinity();

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

void fail_scores_not_finite() {
  fail("the model's scores of the next token are not finite; its weights are damaged, or too large for this precision");
}

int32_t most_likely_token(std::span<const float> scores) {
  size_t best = 0;
  bool numbers = true;
  for (size_t id = 0; id < scores.size(); ++id) {
    numbers &= !std::isnan(scores[id]);
    if (scores[id] > scores[best]) best = id;
  }
  if (!numbers || !std::isfinite(scores[best])) fail_scores_not_finite();
  return static_cast<int32_t>(best);
}

void filtered_distribution(std::span<float> scores, const TokenFilter& filter) {
  const auto highest = static_cast<double>(scores[static_cast<size_t>(most_likely_token(scores))]);
  // From the highest on: at a small temperature the quotients themselves overflow.
  if (filter.temperature != 1)
    for (float& score : scores) score = static_cast<float>((static_cast<double>(score) - highest) / filter.temperature);
  keep_top_k(scores, filter.top_k);
  to_probabilities(scores);
  keep_top_p(scores, filter.top_p);
}

int32_t token_at(std::span<const float> probabilities, double drawn) {
  double mass = 0;
  int32_t last_possible = 0;
  for (size_t id = 0; id < probabilities.size(); ++id) {
    if (probabilities[id] <= 0) continue;
    last_possible = static_cast<int32_t>(id);
    mass += static_cast<double>(probabilities[id]);
    if (drawn < mass) break;
  }
  return last_possible;
}

}  // namespace cbtm
