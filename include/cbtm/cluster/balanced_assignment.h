#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// (cost - dual) / |cost|, or |dual| where the cost is 0.
double relative_gap(double cost, double dual);

struct BalancedAssignment {
  std::vector<int32_t> labels;  ///< [points]
  std::vector<double> prices;   ///< [clusters]: the dual solution, a good start for the next, similar problem
  double cost = 0;              ///< the cost of each point in its cluster, summed
  double dual = 0;  ///< Σ_i min_j (cost_ij + price_j) - Σ_j price_j capacity_j: a lower bound of every solution
  /// (cost - dual) / |cost|. It is 0 but for rounding, since the solver is exact.
  double relative_gap() const { return cbtm::relative_gap(cost, dual); }
};

/// Capacities that differ by at most one: the first (points mod clusters) clusters get one more.
std::vector<int64_t> equal_capacities(int64_t points, int64_t clusters);

/// Assigns every point to a cluster at the least total cost, so that cluster j gets exactly capacities[j] points
/// (docs/method.md, 'Exact assignment by prices'). Sweeps on the device find prices. Then the host moves the few points
/// that are still in the wrong cluster along shortest paths in the graph of clusters. It reads only the costs of points
/// that could move, and more of them if the certificate does not close.
///
///   costs         [points, clusters] float32 on the device
///   capacities    sum to the number of points (asserted)
///   start_prices  may be empty
///
/// Deterministic.
BalancedAssignment balanced_assignment(Device& device, ConstTensorView costs, std::span<const int64_t> capacities,
                                       std::span<const double> start_prices = {});

}  // namespace cbtm
