#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/study/bootstrap.h"
#include "cbtm/study/results.h"

namespace cbtm::study {

enum class Verdict : uint8_t {
  holds,
  fails,     ///< "does not hold"
  undecided  ///< "undecided at this size"
};
/// "holds", "does not hold", "undecided at this size".
const char* verdict_name(Verdict verdict);

/// What is claimed of a quantity.
enum class Claim : uint8_t { below, above };

/// The rule for every verdict (docs/study.md, 'Verdicts'). The claim "below the bound" holds if the whole interval and
/// the value of every random seed are below it, does not hold if they all are above it, and is undecided otherwise, and
/// always with fewer than two random seeds.
Verdict judge(const Estimate& estimate, Claim claim, double bound);

/// Of several parts: holds if all hold, does not hold if one does not, else undecided. No parts are undecided.
Verdict judge_all(const std::vector<Verdict>& parts);

/// How an estimate is shown: as a change of perplexity in percent (of nats per token), or as it is.
enum class Unit : uint8_t { percent, plain };

/// One number of a relation, with what is claimed of it.
struct Finding {
  std::string text;  ///< "k = 4 against dense, 16M tokens"
  Unit unit = Unit::percent;
  Estimate estimate;  ///< in nats per token where the unit is percent
  Claim claim = Claim::below;
  double bound = 0;  ///< as the estimate
  Verdict verdict = Verdict::undecided;
};

/// One claim of the papers, and what became of it.
struct Relation {
  int64_t number = 0;  ///< docs/study.md, 'The twelve relations'
  std::string claim;
  std::string rule;  ///< what is looked at
  std::vector<Finding> findings;
  std::vector<std::string> missing;  ///< what the study does not hold, in words
  Verdict verdict = Verdict::undecided;
};

/// The twelve relations of a study, in order.
std::vector<Relation> relations_of(const Results& results);

/// The number of experts that is best for each budget, by the first k-means clustering and the dense model.
struct BestK {
  int64_t budget = 0;
  int64_t k = 1;                                        ///< of the lowest mean loss
  std::vector<uint64_t> seeds;                          ///< random seeds that all k have
  std::vector<int64_t> by_seed;                         ///< of each of them
  std::vector<int64_t> resampled;                       ///< of each resample of the mean over seeds
  std::vector<std::vector<int64_t>> resampled_by_seed;  ///< [seeds][resamples]
};
/// Budgets that lack the cells of some k are left out.
std::vector<BestK> best_k(const Results& results);

/// The best number of experts against the budget: k = 2^(intercept + slope log2(tokens)), by least squares over budgets
/// and random seeds (docs/study.md, 'The fit').
struct Fit {
  double intercept = 0, slope = 0;
  double slope_low = 0, slope_high = 0;  ///< interval of the bootstrap, of the line through the same points
  int64_t tokens_min = 0, tokens_max = 0;
  int64_t k_min = 0, k_max = 0;
  int64_t parameters = 0;  ///< of one expert
};
/// Nothing with fewer than two budgets, or fewer than two numbers of experts.
std::optional<Fit> fit_best_k(const Results& results);

}  // namespace cbtm::study
