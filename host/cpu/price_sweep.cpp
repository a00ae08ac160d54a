#include <algorithm>
#include <limits>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/cluster_operators.h"

namespace cbtm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The two least of costs[b] + prices[b] of one point.
struct TwoLeast {
  double least = kInfinity;
  double second = kInfinity;
  int64_t cluster = 0;  ///< where the least stands
};

TwoLeast two_least(const float* costs, const double* prices, int64_t clusters) {
  TwoLeast result;
  for (int64_t b = 0; b < clusters; ++b) {
    const double value = static_cast<double>(costs[b]) + prices[b];
    if (value < result.least) {
      result.second = result.least;
      result.least = value;
      result.cluster = b;
    } else {
      result.second = std::min(result.second, value);
    }
  }
  return result;
}

/// A price changed from `before`. False if the two least cannot be known without looking at all clusters.
bool update(TwoLeast& point, int64_t cluster, double cost, double before, double price) {
  const double value = cost + price;
  if (point.cluster == cluster) {
    if (value > point.second) return false;
    point.least = value;
    return true;
  }
  if (value < point.least) {
    // The old least becomes the second: it is no larger than the old second, whoever that was.
    point.second = point.least;
    point.least = value;
    point.cluster = cluster;
    return true;
  }
  if (cost + before == point.second && value > point.second) return false;  // it may have been the second
  point.second = std::min(point.second, value);
  return true;
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
          const TwoLeast& point = points[static_cast<size_t>(i)];
          const double other = point.cluster == j ? point.second : point.least;
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
          if (!update(point, j, static_cast<double>(column[i]), before, price))
            point = two_least(row_of(i), prices, clusters);
        }
      });
    }
  }
}

}  // namespace cbtm
