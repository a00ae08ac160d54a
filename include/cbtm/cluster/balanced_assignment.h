#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cbtm {

struct BalancedAssignment {
  std::vector<int32_t> labels;  ///< [points]
  std::vector<double> prices;   ///< [clusters]: the dual solution; start the next, similar problem from them
  double cost = 0;              ///< Σ cost of each point in its cluster
  double dual = 0;  ///< Σ_i min_j (cost_ij + price_j) - Σ_j price_j capacity_j: a lower bound of every solution
  /// (cost - dual) / |cost|: 0 but for rounding, since the solver is exact.
  double relative_gap() const;
};

/// Capacities that differ by at most one: the first points mod clusters get one more.
std::vector<int64_t> equal_capacities(int64_t points, int64_t clusters);

/// Assigns every point so that cluster j gets exactly capacities[j] of them, at the least total cost: from the optimal
/// assignment at given prices, points move along shortest paths in the graph of clusters (shared/reference/kernels.md,
/// 'Balanced assignment', way 1). `costs` is [points, clusters] row-major; the capacities sum to `points` (asserted);
/// `start_prices` may be empty. Deterministic.
BalancedAssignment balanced_assignment(std::span<const float> costs, std::span<const int64_t> capacities,
                                       std::span<const double> start_prices = {});

}  // namespace cbtm
