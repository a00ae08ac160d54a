// What k-means does between its products and sums: draws, choices and means.

#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/cluster_operators.h"

namespace cbtm {

void CpuClusterOperators::smallest_margins(const SmallestMargins& arguments) {
  const int64_t n = arguments.margins.columns;
  CBTM_ASSERT(arguments.wanted >= 1 && arguments.wanted <= n, "as many margins as are wanted");
  const float* margins = arguments.margins.as<float>();
  std::vector<float> sorted(margins, margins + n);
  std::nth_element(sorted.begin(), sorted.begin() + (arguments.wanted - 1), sorted.end());
  const float threshold = sorted[static_cast<size_t>(arguments.wanted - 1)];
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i)
    if (margins[i] <= threshold) arguments.points.as<int32_t>()[count++] = static_cast<int32_t>(i);
  *arguments.count.as<int64_t>() = count;
}

void CpuClusterOperators::put_labels(const PutLabels& arguments) {
  for (int64_t i = 0; i < arguments.points.columns; ++i)
    arguments.labels.as<int32_t>()[arguments.points.as<int32_t>()[i]] = arguments.values.as<int32_t>()[i];
}

void CpuClusterOperators::count_changes(ConstTensorView before, ConstTensorView after, TensorView count) {
  int64_t changes = 0;
  for (int64_t i = 0; i < before.columns; ++i) changes += before.as<int32_t>()[i] != after.as<int32_t>()[i] ? 1 : 0;
  *count.as<int64_t>() = changes;
}

void CpuClusterOperators::draw_centre(const DrawCentre& arguments) {
  const ConstTensorView rows = arguments.rows;
  int32_t* chosen = arguments.chosen.as<int32_t>();
  float* closest = arguments.closest.as<float>();
  CBTM_ASSERT(arguments.step >= 1 && arguments.step < arguments.chosen.columns, "the first row is chosen before");
  const float* latest = rows.as<float>() + chosen[arguments.step - 1] * rows.row_stride;
  parallel_ranges(rows.rows, static_cast<double>(rows.columns) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float distance = kernels_.squared_distance(rows.as<float>() + i * rows.row_stride, latest, rows.columns);
      const float before = arguments.step == 1 ? INFINITY : closest[i];
      closest[i] = std::min(before, distance);
    }
  });
  double total = 0;
  for (int64_t i = 0; i < rows.rows; ++i) total += static_cast<double>(closest[i]);
  double rest = arguments.uniform * total;
  int64_t drawn = arguments.otherwise;
  for (int64_t i = 0; i < rows.rows && total > 0; ++i) {
    rest -= static_cast<double>(closest[i]);
    if (rest < 0) {
      drawn = i;
      break;
    }
  }
  chosen[arguments.step] = static_cast<int32_t>(drawn);
}

void CpuClusterOperators::mean_centres(const MeanCentres& arguments) {
  const ConstTensorView sums = arguments.sums, rows = arguments.rows, distances = arguments.distances;
  std::vector<uint8_t> taken(static_cast<size_t>(distances.columns), 0);
  for (int64_t j = 0; j < sums.rows; ++j) {
    const int64_t members = arguments.counts.as<int64_t>()[j];
    float* centre = arguments.centroids.as<float>() + j * arguments.centroids.row_stride;
    if (members > 0) {
      const double* sum = sums.as<double>() + j * sums.row_stride;
      for (int64_t d = 0; d < sums.columns; ++d) centre[d] = static_cast<float>(sum[d] / static_cast<double>(members));
      continue;
    }
    CBTM_ASSERT(distances.columns == rows.rows, "where a cluster may be without rows, distances are given");
    size_t farthest = 0;
    float largest = -1;
    for (size_t i = 0; i < taken.size(); ++i)
      if (taken[i] == 0 && distances.as<float>()[i] > largest) {
        largest = distances.as<float>()[i];
        farthest = i;
      }
    taken[farthest] = 1;
    std::copy_n(rows.as<float>() + static_cast<int64_t>(farthest) * rows.row_stride, rows.columns, centre);
  }
}

void CpuClusterOperators::sum_in_order(ConstTensorView values, TensorView sum) {
  double total = 0;
  for (int64_t i = 0; i < values.columns; ++i) total += static_cast<double>(values.as<float>()[i]);
  *sum.as<double>() = total;
}

}  // namespace cbtm
