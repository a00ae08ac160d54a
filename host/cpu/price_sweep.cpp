#include <algorithm>
#include <vector>

#include "cbtm/base/threads.h"
#include "cbtm/device/two_least.h"
#include "cpu/cluster_operators.h"

namespace cbtm {
namespace {

TwoLeast two_least(const float* costs, const double* prices, int64_t clusters) {
  TwoLeast result = TwoLeast::none();
  for (int64_t b = 0; b < clusters; ++b) result.add(static_cast<double>(costs[b]) + prices[b], static_cast<int32_t>(b));
  return result;
}

}  // namespace

// The minimum over all other clusters is one of two numbers per point. These are kept from cluster to cluster and only
// found anew for the points whose least or second cluster got dearer: about 2 rows / clusters of them, so that a sweep
// costs O(rows * clusters) and not O(rows * clusters²). The minima are the same numbers, to the bit.
void CpuClusterOperators::price_sweep(const PriceSweep& arguments) {
  constexpr int64_t kColumnsAtOnce = 16;  // a cache line of costs
  const ConstTensorView costs = arguments.costs;
  const int64_t rows = costs.rows, clusters = costs.columns;
  if (clusters == 1 || rows == 0) return;
  double* prices = arguments.prices.as<double>();
  const auto row_of = [&](int64_t i) { return costs.as<float>() + i * costs.row_stride; };
  std::vector<TwoLeast> points(static_cast<size_t>(rows));
  parallel_ranges(rows, static_cast<double>(clusters), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) points[static_cast<size_t>(i)] = two_least(row_of(i), prices, clusters);
  });

  std::vector<float> columns(static_cast<size_t>(rows * std::min(kColumnsAtOnce, clusters)));
  std::vector<double> advantages(static_cast<size_t>(rows));
  for (int64_t first = 0; first < clusters; first += kColumnsAtOnce) {
    const int64_t width = std::min(kColumnsAtOnce, clusters - first);
    parallel_ranges(rows, static_cast<double>(2 * width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t c = 0; c < width; ++c) columns[static_cast<size_t>(c * rows + i)] = row_of(i)[first + c];
    });
    for (int64_t j = first; j < first + width; ++j) {
      const float* column = columns.data() + (j - first) * rows;
      parallel_ranges(rows, 2.0, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const double other = points[static_cast<size_t>(i)].least_but(static_cast<int32_t>(j));
          advantages[static_cast<size_t>(i)] = other - static_cast<double>(column[i]);
        }
      });
      const int64_t rank = arguments.ranks[static_cast<size_t>(j)];
      std::nth_element(advantages.begin(), advantages.begin() + rank, advantages.end(), std::greater<>());
      const double before = prices[j];
      const double price = prices[j] = advantages[static_cast<size_t>(rank)];
      parallel_ranges(rows, 4.0, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          TwoLeast& point = points[static_cast<size_t>(i)];
          if (!point.change_price(static_cast<int32_t>(j), static_cast<double>(column[i]), before, price))
            point = two_least(row_of(i), prices, clusters);
        }
      });
    }
  }
}

}  // namespace cbtm
