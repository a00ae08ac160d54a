#include <algorithm>

#include "cbtm/study/relations.h"

namespace cbtm::study {

const char* verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::holds: return "holds";
    case Verdict::fails: return "does not hold";
    case Verdict::undecided: return "undecided at this size";
  }
  return "";
}

Verdict judge(const Estimate& estimate, Claim claim, double bound) {
  const std::vector<double>& seeds = estimate.by_seed;
  if (seeds.size() < 2) return Verdict::undecided;
  const auto all = [&](const auto& condition) {
    return condition(estimate.low) && condition(estimate.high) && std::all_of(seeds.begin(), seeds.end(), condition);
  };
  const bool below = all([&](double value) { return value < bound; });
  const bool above = all([&](double value) { return value > bound; });
  if (!below && !above) return Verdict::undecided;
  return (claim == Claim::below) == below ? Verdict::holds : Verdict::fails;
}

Verdict judge_all(const std::vector<Verdict>& parts) {
  const auto is = [](Verdict wanted) { return [wanted](Verdict verdict) { return verdict == wanted; }; };
  if (std::any_of(parts.begin(), parts.end(), is(Verdict::fails))) return Verdict::fails;
  return !parts.empty() && std::all_of(parts.begin(), parts.end(), is(Verdict::holds)) ? Verdict::holds
                                                                                       : Verdict::undecided;
}

}  // namespace cbtm::study
