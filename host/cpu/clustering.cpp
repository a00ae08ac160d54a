#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "cbtm/base/threads.h"
#include "cbtm/device/two_least.h"
#include "cpu/cluster_operators.h"
#include "cpu/matrix_product.h"

namespace cbtm {

void CpuClusterOperators::gram(ConstTensorView x, TensorView product) {
  // float32 products of pieces short enough to lose nothing that matters, added in order in float64.
  constexpr int64_t kPieceRows = 1024;
  const int64_t columns = x.columns;
  double* out = product.as<double>();
  std::fill_n(out, columns * columns, 0.0);
  std::vector<float> partial(static_cast<size_t>(columns * columns));
  for (int64_t first = 0; first < x.rows; first += kPieceRows) {
    const int64_t count = std::min(kPieceRows, x.rows - first);
    const float* values = x.as<float>() + first * x.row_stride;
    cpu::multiply_matrices(kernels_, {columns, columns, count, values, x.row_stride, true, values, x.row_stride, false,
                                      partial.data(), columns});
    for (int64_t i = 0; i < columns * columns; ++i) out[i] += static_cast<double>(partial[static_cast<size_t>(i)]);
  }
}

void CpuClusterOperators::solve_upper(ConstTensorView upper, TensorView y) {
  const int64_t columns = y.columns;
  CBTM_ASSERT(upper.rows == columns && upper.columns == columns, "a triangle as wide as the rows");
  const auto r = [&](int64_t i, int64_t j) { return upper.as<double>()[i * upper.row_stride + j]; };
  parallel_ranges(y.rows, static_cast<double>(columns * columns), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* values = y.as<float>() + row * y.row_stride;
      for (int64_t j = 0; j < columns; ++j) {
        values[j] = r(j, j) != 0 ? static_cast<float>(static_cast<double>(values[j]) / r(j, j)) : 0.0f;
        const double value = static_cast<double>(values[j]);
        if (value == 0) continue;
        for (int64_t l = j + 1; l < columns; ++l) values[l] -= static_cast<float>(value * r(j, l));
      }
    }
  });
}

void CpuClusterOperators::squared_distances(ConstTensorView rows, ConstTensorView centroids,
                                            TensorView squared_distances) {
  const int64_t dimensions = rows.columns;
  parallel_ranges(rows.rows, static_cast<double>(dimensions * centroids.rows) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t centroid = 0; centroid < centroids.rows; ++centroid)
        squared_distances.as<float>()[row * squared_distances.row_stride + centroid] =
            kernels_.squared_distance(rows.as<float>() + row * rows.row_stride,
                                      centroids.as<float>() + centroid * centroids.row_stride, dimensions);
  });
}

void CpuClusterOperators::nearest_centres(const NearestCentres& arguments) {
  const ConstTensorView rows = arguments.rows, centroids = arguments.centroids;
  CBTM_ASSERT(centroids.rows > 0 && centroids.columns == rows.columns, "there is a centre to be near to");
  const double cost = static_cast<double>(rows.columns * centroids.rows) * 0.1;
  parallel_ranges(rows.rows, cost, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float best = std::numeric_limits<float>::infinity(), second = best;
      int32_t label = 0;
      for (int64_t centroid = 0; centroid < centroids.rows; ++centroid) {
        const float distance =
            kernels_.squared_distance(rows.as<float>() + row * rows.row_stride,
                                      centroids.as<float>() + centroid * centroids.row_stride, rows.columns);
        if (distance < best) {
          second = best;
          best = distance;
          label = static_cast<int32_t>(centroid);
        } else {
          second = std::min(second, distance);
        }
      }
      arguments.labels.as<int32_t>()[row] = label;
      arguments.nearest.as<float>()[row] = best;
      if (arguments.second) arguments.second.as<float>()[row] = second;
    }
  });
}

void CpuClusterOperators::cluster_sums(const ClusterSums& arguments) {
  const ConstTensorView rows = arguments.rows;
  const int32_t* labels = arguments.labels.as<int32_t>();
  double* sums = arguments.sums.as<double>();
  int64_t* counts = arguments.counts.as<int64_t>();
  std::fill_n(sums, arguments.sums.rows * rows.columns, 0.0);
  std::fill_n(counts, arguments.sums.rows, int64_t{0});
  for (int64_t i = 0; i < rows.rows; ++i) {
    ++counts[labels[i]];
    const float* row = rows.as<float>() + i * rows.row_stride;
    double* sum = sums + labels[i] * rows.columns;
    for (int64_t d = 0; d < rows.columns; ++d) sum[d] += static_cast<double>(row[d]);
  }
}

void CpuClusterOperators::assign_at_prices(const AssignAtPrices& arguments) {
  const ConstTensorView costs = arguments.costs;
  const double* prices = arguments.prices.as<double>();
  int64_t* counts = arguments.counts.as<int64_t>();
  std::vector<double> least(static_cast<size_t>(costs.rows));
  std::vector<int32_t> labels(static_cast<size_t>(costs.rows));
  parallel_ranges(costs.rows, static_cast<double>(costs.columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = costs.as<float>() + i * costs.row_stride;
      TwoLeast two = TwoLeast::none();
      for (int64_t j = 0; j < costs.columns; ++j)
        two.add(static_cast<double>(row[j]) + prices[j], static_cast<int32_t>(j));
      labels[static_cast<size_t>(i)] = two.cluster;
      least[static_cast<size_t>(i)] = two.least;
      if (arguments.margins) arguments.margins.as<float>()[i] = static_cast<float>(two.second - two.least);
    }
  });
  if (arguments.labels) std::ranges::copy(labels, arguments.labels.as<int32_t>());
  std::fill_n(counts, costs.columns, int64_t{0});
  for (const int32_t label : labels) ++counts[label];
  *arguments.dual_sum.as<double>() = std::accumulate(least.begin(), least.end(), 0.0);
}

}  // namespace cbtm
