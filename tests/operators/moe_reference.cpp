#include "tests/operators/moe_reference.h"

#include <algorithm>
#include <cmath>

namespace cbtm {
namespace {

/// The largest of a row but `without`, the first of equal ones; NaN is the least.
int64_t largest(const double* logits, int64_t experts, int64_t without) {
  int64_t best = without == 0 ? 1 : 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (e == without || e == best) continue;
    const bool above = std::isnan(logits[best]) ? !std::isnan(logits[e]) : logits[e] > logits[best];
    if (above) best = e;
  }
  return best;
}

}  // namespace

RoutedTokens routed_tokens(const std::vector<double>& logits, int64_t rows, int64_t experts, int64_t capacity) {
  RoutedTokens routed;
  routed.first_counts.assign(static_cast<size_t>(experts), 0);
  routed.second_counts = routed.first_counts;
  for (int64_t s = 0; s < rows; ++s) {
    const double* row = logits.data() + s * experts;
    const int64_t first = largest(row, experts, -1), second = largest(row, experts, first);
    routed.choices.push_back(static_cast<double>(first));
    routed.choices.push_back(static_cast<double>(second));
    ++routed.first_counts[static_cast<size_t>(first)];
    ++routed.second_counts[static_cast<size_t>(second)];
  }
  // The queue of each expert: first choices, then second ones, each in the order of the tokens.
  routed.sorted_row.assign(static_cast<size_t>(2 * rows), -1);
  routed.offsets.push_back(0);
  for (int64_t e = 0; e < experts; ++e) {
    int64_t slot = 0;
    for (int64_t j = 0; j < 2; ++j)
      for (int64_t s = 0; s < rows; ++s) {
        if (routed.choice(s, j) != e) continue;
        if (capacity > 0 && slot++ >= capacity) {
          ++routed.dropped[j];
          continue;
        }
        routed.sorted_row[static_cast<size_t>(2 * s + j)] = static_cast<double>(routed.sources.size());
        routed.sources.push_back(static_cast<double>(2 * s + j));
      }
    routed.offsets.push_back(static_cast<double>(routed.sources.size()));
  }
  for (int64_t s = 0; s < rows; ++s) {
    const bool first = routed.row_of(s, 0) >= 0, second = routed.row_of(s, 1) >= 0;
    Bounded weight = first ? 1.0 : 0.0, other = second ? 1.0 : 0.0;
    if (first && second) {
      const Bounded l1 = logits[static_cast<size_t>(s * experts + routed.choice(s, 0))];
      const Bounded l2 = logits[static_cast<size_t>(s * experts + routed.choice(s, 1))];
      weight = Bounded(1.0) / (Bounded(1.0) + exp(l2 - l1));
      other = Bounded(1.0) - weight;
    }
    routed.weights.push_back(weight);
    routed.weights.push_back(other);
    if (!first && !second) ++routed.dropped_both;
  }
  return routed;
}

std::vector<double> coarse_logits(int64_t rows, int64_t experts, uint64_t seed) {
  std::vector<double> logits = uniform_ids(rows * experts, 17, seed);
  for (double& logit : logits) logit = (logit - 8) / 4;
  return logits;
}

ExpertRouting RoutingOperands::on(const OperandsOnDevice& device) const {
  return {.logits = device[logits],
          .choices = device[choices],
          .weights = device[weights],
          .sorted_row = device[sorted_row],
          .offsets = device[offsets],
          .sources = device[sources],
          .first_counts = device[first_counts]};
}

RoutingOperands add_routing(OperatorCase& one, const std::vector<double>& logits, const RoutedTokens& routed,
                            int64_t experts) {
  const auto rows = static_cast<int64_t>(routed.choices.size()) / 2;
  std::vector<double> weights, sources = routed.sources;
  for (const Bounded& weight : routed.weights) weights.push_back(weight.value);
  sources.resize(static_cast<size_t>(2 * rows), INT32_MAX);  // nobody reads these
  return {.logits = one.input("logits", DType::f32, rows, experts, logits),
          .choices = one.input("choices", DType::i32, rows, 2, routed.choices),
          .weights = one.input("weights", DType::f32, rows, 2, weights),
          .sorted_row = one.input("sorted_row", DType::i32, rows, 2, routed.sorted_row),
          .offsets = one.input("offsets", DType::i32, 1, experts + 1, routed.offsets),
          .sources = one.input("sources", DType::i32, 1, 2 * rows, sources),
          .first_counts = one.input("first_counts", DType::i32, 1, experts, routed.first_counts)};
}

}  // namespace cbtm
