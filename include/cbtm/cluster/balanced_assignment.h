#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/device/device.h"

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

/// Assigns every point so that cluster j gets exactly capacities[j] of them, at the least total cost: prices by sweeps
/// on the device, then the few points that these leave in the wrong place are moved along shortest paths in the graph
/// of clusters (docs/method.md, 'Exact assignment by prices') on the host, which reads just the costs of the points
/// that could move; more of them if the certificate does not close. `costs` is [points, clusters] float32 on the
/// device; the capacities sum to `points` (asserted); `start_prices` may be empty. Deterministic.
BalancedAssignment balanced_assignment(Device& device, ConstTensorView costs, std::span<const int64_t> capacities,
                                       std::span<const double> start_prices = {});

}  // namespace cbtm
