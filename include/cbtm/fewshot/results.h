#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cbtm/fewshot/label_scores.h"

namespace cbtm {

/// The scores of the labels of one prompt (docs/few-shot.md, 'Scores').
struct LabelScores {
  std::vector<double> lm;      ///< ln p(label | prompt)
  std::vector<double> length;  ///< the same per token of the label
  std::vector<double> pmi;     ///< ln p(label | prompt) - ln p(label | suffix)
};

/// The kinds of scores in the order of LabelScores: "lm", "length", "pmi".
inline constexpr std::array kScoreKinds = {"lm", "length", "pmi"};
const std::vector<double>& scores_of(const LabelScores& scores, size_t kind);

/// One model's.
LabelScores model_scores(const LabelLogProbabilities& prompt, const LabelLogProbabilities& suffix);

/// An ensemble's, mixed by the probabilities of whole labels: ln Σ_j weight_j p_j(label). `prompt` and `suffix` have
/// one entry per cluster; of those without weight nothing is read.
LabelScores mixed_label_scores(std::span<const LabelLogProbabilities> prompt,
                               std::span<const LabelLogProbabilities> suffix, std::span<const double> weights);

/// An ensemble's, mixed token by token: Σ_t ln Σ_j weight_j(t) p_j(token t). `weights` is [labels][tokens][clusters].
LabelScores mixed_token_scores(std::span<const LabelLogProbabilities> prompt,
                               std::span<const LabelLogProbabilities> suffix,
                               const std::vector<std::vector<std::vector<double>>>& weights);

/// The place of the largest score; of equal ones the first.
int64_t predicted_label(const std::vector<double>& scores);

/// Accuracies of one system and one kind of score.
struct Accuracy {
  std::vector<double> by_seed;
  double mean() const;
  /// Standard deviation over the seeds (n - 1) divided by sqrt(n); NaN with fewer than two.
  double standard_error() const;
};

}  // namespace cbtm
