#pragma once

#include <vector>

#include "cbtm/device/attention_operands.h"
#include "tests/operators/bounded.h"
#include "tests/operators/dropout_reference.h"

namespace cbtm {

// The formulas of cbtm/device/attention_operands.h with their errors, for one query of one head.
//
// A score is off by its sum of head_dim products, and by the scale. Its exponential is taken of the difference to the
// largest score, in whatever base: each of the two is rounded once more. A running maximum multiplies what was summed
// before once for each tile of keys, 16 at least, by an exponential of some 16 units: one unit for each key. Where a
// tensor core multiplies the probabilities they are rounded to the operands' type first.

struct QueryReference {
  std::vector<Bounded> exponentials;  ///< exp(score - highest) of each key that is seen
  Bounded sum;                        ///< of them
  Bounded log_sum_exp;
};

/// `query(c)` and `key(j, c)` are Bounded or double; c is below head_dim, j below `seen`.
template <typename Query, typename Key>
QueryReference query_reference(DType dtype, double scale, int64_t head_dim, int64_t seen, const Query& query,
                               const Key& key) {
  std::vector<Bounded> scores;
  double highest = -INFINITY;
  for (int64_t j = 0; j < seen; ++j) {
    Sum score(dtype);
    for (int64_t c = 0; c < head_dim; ++c) score.add_product(with_units(scale * query(c), 1), key(j, c));
    scores.push_back(score.result());
    highest = std::max(highest, scores.back().value);
  }
  QueryReference result;
  Sum sum;
  for (const Bounded& score : scores) {
    const double rounding = 2 * kRoundoff * (score.size() + std::abs(highest));
    const Bounded exponential = exp(Bounded(score.value - highest, score.error + rounding));
    result.exponentials.push_back(with_units(exponential, 32 + static_cast<double>(seen)));
    sum.add(result.exponentials.back());
  }
  result.sum = sum.result();
  result.log_sum_exp = Bounded(highest) + log(result.sum);
  return result;
}

}  // namespace cbtm
