#include "cbtm/cluster/balanced_assignment.h"

#include <cmath>
#include <numeric>

#include "cluster/priced_assignment.h"

namespace cbtm {

double relative_gap(double cost, double dual) { return cost == 0 ? std::abs(dual) : (cost - dual) / std::abs(cost); }

std::vector<int64_t> equal_capacities(int64_t points, int64_t clusters) {
  std::vector<int64_t> capacities(static_cast<size_t>(clusters), points / clusters);
  for (int64_t j = 0; j < points % clusters; ++j) ++capacities[static_cast<size_t>(j)];
  return capacities;
}

BalancedAssignment balanced_assignment(Device& device, ConstTensorView costs, std::span<const int64_t> capacities,
                                       std::span<const double> start_prices) {
  CBTM_ASSERT(!capacities.empty() && costs.columns == static_cast<int64_t>(capacities.size()) &&
                  costs.rows == std::accumulate(capacities.begin(), capacities.end(), int64_t{0}),
              "the capacities hold exactly the points");
  const DeviceMatrix labels(device, DType::i32, 1, costs.rows, "balanced assignment (--fit-documents, --k)");
  PricedAssignment assignment(device, costs.rows, {capacities.begin(), capacities.end()});
  PricedAssignment::Result result = assignment.assign(costs, start_prices, labels.view());
  return {.labels = labels.to_host<int32_t>(),
          .prices = std::move(result.prices),
          .cost = result.cost,
          .dual = result.dual};
}

}  // namespace cbtm
