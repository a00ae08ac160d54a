#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cbtm/study/relations.h"

namespace cbtm::study {

/// "16M tokens".
std::string tokens_text(int64_t tokens);

/// A difference between two systems of one k.
struct Contrast {
  int64_t k = 0;
  std::vector<Term> terms;
};

/// Collects the findings of one relation.
class RelationParts {
 public:
  RelationParts(const Results& results, int64_t number, std::string claim, std::string rule);

  int64_t smallest() const { return results_.config().axis.budgets.front(); }
  int64_t largest() const { return results_.config().axis.budgets.back(); }
  /// The study's numbers of experts, without 1: all were tried with the first k-means clustering.
  const std::vector<int64_t>& learned_k() const { return learned_k_; }
  /// The largest of them up to 16, or 0.
  int64_t reference_k() const;
  /// An ensemble of the first k-means clustering by tf-idf with `top_k` experts. budget 0: the largest.
  const Entry* tfidf(int64_t k, int64_t top_k, int64_t budget = 0) const;

  /// Adds a comparison. If one of its cells is not there, that is noted instead.
  void compare(const std::string& text, const std::vector<Term>& terms, Claim claim = Claim::below, double bound = 0);
  /// Adds how the difference of k experts and dense changes from the smallest budget to the largest: below 0.
  void growth(const std::string& text, int64_t k);
  /// Adds comparisons of this clustering with the learned one, above 0, for each k and the largest budget that the
  /// clustering was tried with. Returns what was compared.
  std::vector<Contrast> against_learned(Clustering kind);
  void add(Finding finding);
  void lacks(const std::string& what) { relation_.missing.push_back("the study has no " + what); }

  /// The verdict: of all findings, but never "holds" if something is missing.
  Relation finish();

 private:
  const Results& results_;
  std::vector<int64_t> learned_k_;
  Relation relation_;
};

}  // namespace cbtm::study
