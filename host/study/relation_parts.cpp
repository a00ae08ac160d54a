#include "study/relation_parts.h"

#include <fmt/format.h>

#include <algorithm>

namespace cbtm::study {

RelationParts::RelationParts(const Results& results, int64_t number, std::string claim, std::string rule)
    : results_(results), relation_{.number = number, .claim = std::move(claim), .rule = std::move(rule)} {
  learned_k_ = results.config().axis.k;
  std::erase(learned_k_, 1);
}

int64_t RelationParts::reference_k() const {
  int64_t reference = 0;
  for (const int64_t k : learned_k_)
    if (k <= 16) reference = std::max(reference, k);
  return reference;
}

const Entry* RelationParts::tfidf(int64_t k, int64_t top_k, int64_t budget) const {
  return results_.find({.kind = SystemKind::ensemble,
                        .clustering = results_.learned_kind(),
                        .k = k,
                        .budget = budget == 0 ? largest() : budget},
                       "tfidf", top_k);
}

void RelationParts::add(Finding finding) {
  finding.verdict = judge(finding.estimate, finding.claim, finding.bound);
  relation_.findings.push_back(std::move(finding));
}

void RelationParts::compare(const std::string& text, const std::vector<Term>& terms, Claim claim, double bound) {
  if (const std::optional<Estimate> estimate = results_.contrast(terms))
    add({.text = text, .estimate = *estimate, .claim = claim, .bound = bound});
  else
    relation_.missing.push_back("not all cells are there: " + text);
}

void RelationParts::growth(const std::string& text, int64_t k) {
  if (smallest() == largest()) return lacks("second budget");
  compare(text, {{1, results_.learned(k, largest())},
                 {-1, results_.dense(largest())},
                 {-1, results_.learned(k, smallest())},
                 {1, results_.dense(smallest())}});
}

std::vector<Contrast> RelationParts::against_learned(Clustering kind) {
  std::vector<Contrast> contrasts;
  for (const ClusteringAxis& clustering : results_.config().clusterings) {
    if (clustering.kind != kind) continue;
    const int64_t budget = clustering.axis.budgets.back();
    for (const int64_t k : clustering.axis.k) {
      if (std::find(learned_k_.begin(), learned_k_.end(), k) == learned_k_.end()) continue;
      const System system{.kind = SystemKind::ensemble, .clustering = kind, .k = k, .budget = budget};
      contrasts.push_back({k, {{1, results_.main(system)}, {-1, results_.learned(k, budget)}}});
      compare(fmt::format("{} against {}, k = {}, {}", clustering_name(kind), clustering_name(results_.learned_kind()),
                          k, tokens_text(budget)),
              contrasts.back().terms, Claim::above);
    }
  }
  if (contrasts.empty()) lacks(fmt::format("{} clusters beside learned ones", clustering_name(kind)));
  return contrasts;
}

Relation RelationParts::finish() {
  std::vector<Verdict> verdicts;
  for (const Finding& finding : relation_.findings) verdicts.push_back(finding.verdict);
  relation_.verdict = judge_all(verdicts);
  if (!relation_.missing.empty() && relation_.verdict == Verdict::holds) relation_.verdict = Verdict::undecided;
  return std::move(relation_);
}

}  // namespace cbtm::study
