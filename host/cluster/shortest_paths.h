#pragma once

#include "cbtm/cluster/balanced_assignment.h"

namespace cbtm {

/// The least-cost assignment with these capacities, from the one that is optimal at these prices: points move along
/// shortest paths in the graph of clusters until no cluster is overfull. `costs` is [points, clusters] row-major on the
/// host. The nearer the prices are to a dual solution, the fewer points have to move.
BalancedAssignment move_along_shortest_paths(std::span<const float> costs, std::span<const int64_t> capacities,
                                             std::span<const double> prices);

}  // namespace cbtm
