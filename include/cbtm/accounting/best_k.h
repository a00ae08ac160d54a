#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "cbtm/base/json.h"

namespace cbtm {

/// The number of experts that was best against the budget, as a study fitted it (docs/accounting.md, 'The number of
/// experts'): best k = 2^(intercept + slope log2(tokens)), within what the study measured.
struct StudyFit {
  double intercept = 0, slope = 0;
  int64_t tokens_min = 0, tokens_max = 0;  ///< of the budgets that were measured
  int64_t k_min = 1, k_max = 1;            ///< of the numbers of experts that were measured
  int64_t parameters = 0;                  ///< of one expert

  /// Clamped to [k_min, k_max]. `tokens`: of the dense model after branching, and of all experts together.
  double best_k(int64_t tokens) const;
};

/// The "fit" of a study.json; nothing if it has none. Throws Error that names `file` and the key if a value has the
/// wrong type or cannot be.
std::optional<StudyFit> parse_study_fit(const Json& json, const std::string& file);

struct SuggestedK {
  int64_t k = 1;
  std::string reason;  ///< one line, with the numbers it follows from
};

/// Which of `candidates` (not empty, all positive) to take for a model of `parameters` and a budget of `tokens`: the
/// one nearest to a study's fit, on a logarithmic scale, or by the paper's relation, which is a rule of thumb.
SuggestedK suggest_k(std::span<const int64_t> candidates, int64_t tokens, int64_t parameters,
                     const std::optional<StudyFit>& fit);

}  // namespace cbtm
