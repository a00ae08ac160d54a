// What sweeps of prices are for.

#include "cbtm/device/cluster_operators.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

Device& device() { return device_under_test(); }

TEST_CASE("prices let each cluster's share of the points prefer it") {
  constexpr int64_t n = 600, k = 5;
  auto costs = random_values(n * k, 6);
  std::vector<double> prices(k, 0.0);
  const std::vector<int64_t> ranks(k, n / k - 1);
  for (int sweep = 0; sweep < 20; ++sweep)
    device().cluster_operators().price_sweep(
        {.costs = as_matrix(costs, n), .ranks = ranks, .prices = view_of(prices.data(), 1, k)});
  std::vector<int32_t> labels(n);
  std::vector<float> margins(n);
  std::vector<int64_t> counts(k);
  double dual = 0;
  device().cluster_operators().assign_at_prices({.costs = as_matrix(costs, n),
                                                 .prices = view_of(prices.data(), 1, k),
                                                 .labels = view_of(labels.data(), 1, n),
                                                 .margins = as_matrix(margins, 1),
                                                 .counts = view_of(counts.data(), 1, k),
                                                 .dual_sum = view_of(&dual, 1, 1)});
  for (const int64_t count : counts) CHECK(std::abs(count - n / k) <= 2);
}

}  // namespace
}  // namespace cbtm
