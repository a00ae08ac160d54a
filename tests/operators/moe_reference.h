#pragma once

#include <cstdint>
#include <vector>

#include "cbtm/device/moe_operands.h"
#include "tests/operators/operator_case.h"

namespace cbtm {

/// What cbtm/device/moe_operands.h says of routing, worked out for one token after another.
struct RoutedTokens {
  std::vector<double> choices, sorted_row;  ///< [rows, 2]
  std::vector<double> offsets;              ///< [experts + 1]
  std::vector<double> sources;              ///< of the kept choices
  std::vector<double> first_counts, second_counts;
  std::vector<Bounded> weights;  ///< [rows, 2]
  int64_t dropped[2] = {0, 0}, dropped_both = 0;

  int64_t kept() const { return static_cast<int64_t>(sources.size()); }
  int64_t token(int64_t sorted) const { return static_cast<int64_t>(sources[static_cast<size_t>(sorted)]) / 2; }
  int64_t row_of(int64_t token, int64_t j) const {
    return static_cast<int64_t>(sorted_row[static_cast<size_t>(2 * token + j)]);
  }
  int64_t choice(int64_t token, int64_t j) const {
    return static_cast<int64_t>(choices[static_cast<size_t>(2 * token + j)]);
  }
  Bounded weight(int64_t token, int64_t j) const { return weights[static_cast<size_t>(2 * token + j)]; }
};
/// `logits`: [rows, experts]. `capacity` 0: nothing is dropped.
RoutedTokens routed_tokens(const std::vector<double>& logits, int64_t rows, int64_t experts, int64_t capacity);

/// Logits in steps of a quarter, so that many are equal.
std::vector<double> coarse_logits(int64_t rows, int64_t experts, uint64_t seed);

/// A routing's operands, all read.
struct RoutingOperands {
  Operand logits, choices, weights, sorted_row, offsets, sources, first_counts;
  ExpertRouting on(const OperandsOnDevice& device) const;
};
RoutingOperands add_routing(OperatorCase& one, const std::vector<double>& logits, const RoutedTokens& routed,
                            int64_t experts);

}  // namespace cbtm
