#include "cbtm/fewshot/results.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace cbtm {
namespace {

double sum_of(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

/// ln Σ_j weight_j exp(value(j)), over those that have a weight.
template <typename Value>
double log_mixture(std::span<const double> weights, const Value& value) {
  double highest = -INFINITY;
  for (size_t j = 0; j < weights.size(); ++j)
    if (weights[j] > 0) highest = std::max(highest, std::log(weights[j]) + value(j));
  if (!std::isfinite(highest)) return highest;
  double sum = 0;
  for (size_t j = 0; j < weights.size(); ++j)
    if (weights[j] > 0) sum += std::exp(std::log(weights[j]) + value(j) - highest);
  return highest + std::log(sum);
}

/// The three kinds from ln p(label | prompt) and ln p(label | suffix).
void add_label(LabelScores& scores, double lm, double of_suffix, size_t tokens) {
  scores.lm.push_back(lm);
  scores.length.push_back(lm / static_cast<double>(tokens));
  scores.pmi.push_back(lm - of_suffix);
}

}  // namespace

const std::vector<double>& scores_of(const LabelScores& scores, size_t kind) {
  return kind == 0 ? scores.lm : kind == 1 ? scores.length : scores.pmi;
}

LabelScores model_scores(const LabelLogProbabilities& prompt, const LabelLogProbabilities& suffix) {
  LabelScores scores;
  for (size_t label = 0; label < prompt.size(); ++label)
    add_label(scores, sum_of(prompt[label]), sum_of(suffix[label]), prompt[label].size());
  return scores;
}

namespace {

/// Labels and their numbers of tokens, from an expert that has a weight.
const LabelLogProbabilities& some_expert(std::span<const LabelLogProbabilities> prompt,
                                         std::span<const double> weights) {
  size_t j = 0;
  while (j + 1 < weights.size() && !(weights[j] > 0)) ++j;
  return prompt[j];
}

}  // namespace

LabelScores mixed_label_scores(std::span<const LabelLogProbabilities> prompt,
                               std::span<const LabelLogProbabilities> suffix, std::span<const double> weights) {
  LabelScores scores;
  const LabelLogProbabilities& shape = some_expert(prompt, weights);
  for (size_t label = 0; label < shape.size(); ++label)
    add_label(scores, log_mixture(weights, [&](size_t j) { return sum_of(prompt[j][label]); }),
              log_mixture(weights, [&](size_t j) { return sum_of(suffix[j][label]); }), shape[label].size());
  return scores;
}

LabelScores mixed_token_scores(std::span<const LabelLogProbabilities> prompt,
                               std::span<const LabelLogProbabilities> suffix,
                               const std::vector<std::vector<std::vector<double>>>& weights) {
  LabelScores scores;
  for (size_t label = 0; label < weights.size(); ++label) {
    double lm = 0, of_suffix = 0;
    for (size_t t = 0; t < weights[label].size(); ++t) {
      lm += log_mixture(weights[label][t], [&](size_t j) { return prompt[j][label][t]; });
      of_suffix += log_mixture(weights[label][t], [&](size_t j) { return suffix[j][label][t]; });
    }
    add_label(scores, lm, of_suffix, weights[label].size());
  }
  return scores;
}

int64_t predicted_label(const std::vector<double>& scores) {
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

double Accuracy::mean() const { return sum_of(by_seed) / static_cast<double>(by_seed.size()); }

double Accuracy::standard_error() const {
  const auto count = static_cast<double>(by_seed.size());
  if (by_seed.size() < 2) return NAN;
  double squares = 0;
  for (const double one : by_seed) squares += (one - mean()) * (one - mean());
  return std::sqrt(squares / (count - 1) / count);
}

}  // namespace cbtm
