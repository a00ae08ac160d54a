#include <fmt/format.h>

#include "cbtm/device/cluster_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/order_statistic.h"

namespace cbtm {
namespace {

struct PointSettings {
  int64_t n, dimensions, clusters;
};

std::vector<double> points_of(const PointSettings& s) {
  std::vector<double> values = uniform_values(s.n * s.dimensions, 1);
  values[values.size() / 3] = 500;
  return values;
}
/// The last equals the first: of equals the first is wanted.
std::vector<double> centres_of(const PointSettings& s) {
  std::vector<double> values = uniform_values(s.clusters * s.dimensions, 2);
  if (s.clusters > 2) std::copy_n(values.begin(), s.dimensions, values.begin() + (s.clusters - 1) * s.dimensions);
  return values;
}

Bounded squared_distance(const HostMatrix& rows, int64_t row, const HostMatrix& centres, int64_t centre) {
  Sum sum;
  for (int64_t d = 0; d < rows.columns; ++d) {
    const Bounded difference = Bounded(rows.at(row, d)) - centres.at(centre, d);
    sum.add_product(difference, difference);
  }
  return sum.result();
}

OperatorCase make_distances(const PointSettings& s) {
  OperatorCase one;
  const Operand rows = one.input("rows", DType::f32, s.n, s.dimensions, points_of(s));
  const Operand centres = one.input("centroids", DType::f32, s.clusters, s.dimensions, centres_of(s));
  const Operand distances = one.output("squared_distances", DType::f32, s.n, s.clusters);
  one.flops = 3.0 * static_cast<double>(s.n * s.clusters * s.dimensions);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().squared_distances(on[rows], on[centres], on[distances]);
  };
  one.reference = [=](Expectation& e) {
    for (int64_t i = 0; i < s.n; ++i)
      for (int64_t j = 0; j < s.clusters; ++j) e.expect(distances, i, j, squared_distance(e[rows], i, e[centres], j));
  };
  return one;
}

/// Without the second distances a device may find the nearest in another way.
OperatorCase make_nearest(const PointSettings& s, bool with_second) {
  OperatorCase one;
  const Operand rows = one.input("rows", DType::f32, s.n, s.dimensions, points_of(s));
  const Operand centres = one.input("centroids", DType::f32, s.clusters, s.dimensions, centres_of(s));
  const Operand labels = one.output("labels", DType::i32, 1, s.n);
  const Operand nearest = one.output("nearest", DType::f32, 1, s.n);
  const Operand second = with_second ? one.output("second", DType::f32, 1, s.n) : Operand();
  one.flops = 3.0 * static_cast<double>(s.n * s.clusters * s.dimensions);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().nearest_centres({.rows = on[rows],
                                                .centroids = on[centres],
                                                .labels = on[labels],
                                                .nearest = on[nearest],
                                                .second = on[second]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t i = 0; i < s.n; ++i) {
      std::vector<Bounded> distances;
      for (int64_t j = 0; j < s.clusters; ++j) distances.push_back(squared_distance(e[rows], i, e[centres], j));
      const Bounded least = order_statistic(distances, 0);
      e.expect(nearest, 0, i, least);
      if (with_second) e.expect(second, 0, i, s.clusters > 1 ? order_statistic(distances, 1) : Bounded(INFINITY));
      // Whoever may be the nearest, but never the last, which equals the first.
      std::vector<double> candidates;
      for (int64_t j = 0; j < s.clusters && (s.clusters <= 2 || j < s.clusters - 1); ++j) {
        const Bounded& distance = distances[static_cast<size_t>(j)];
        if (distance.value - distance.error <= least.value + least.error) candidates.push_back(static_cast<double>(j));
      }
      e.expect_one_of(labels, 0, i, candidates);
    }
  };
  return one;
}

OperatorCase make_sums(const PointSettings& s) {
  OperatorCase one;
  const Operand rows = one.input("rows", DType::f32, s.n, s.dimensions, points_of(s));
  const Operand labels = one.input("labels", DType::i32, 1, s.n, uniform_ids(s.n, s.clusters, 3));
  const Operand sums = one.output("sums", DType::f64, s.clusters, s.dimensions);
  const Operand counts = one.output("counts", DType::i64, 1, s.clusters);
  one.flops = static_cast<double>(s.n * s.dimensions);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().cluster_sums(
        {.rows = on[rows], .labels = on[labels], .sums = on[sums], .counts = on[counts]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t cluster = 0; cluster < s.clusters; ++cluster) {
      int64_t count = 0;
      for (int64_t i = 0; i < s.n; ++i) count += static_cast<int64_t>(e[labels].at(0, i)) == cluster;
      e.expect_one_of(counts, 0, cluster, {static_cast<double>(count)});
      for (int64_t d = 0; d < s.dimensions; ++d) {
        Objective sum;  // in float64 on either side
        for (int64_t i = 0; i < s.n; ++i)
          if (static_cast<int64_t>(e[labels].at(0, i)) == cluster) sum.add(e[rows].at(i, d));
        e.expect(sums, cluster, d, {sum.value, 2 * static_cast<double>(count) * 0x1p-53 * sum.size});
      }
    }
  };
  return one;
}

}  // namespace

CaseList distance_cases() {
  CaseList cases;
  const auto add = [&](const PointSettings& s, bool large = false) {
    const std::string settings = fmt::format("{}x{} to {}", s.n, s.dimensions, s.clusters);
    cases.push_back({"squared_distances " + settings, large, [s] { return make_distances(s); }});
    cases.push_back({"nearest_centres " + settings, large, [s] { return make_nearest(s, false); }});
    cases.push_back({"nearest_centres and second " + settings, large, [s] { return make_nearest(s, true); }});
    cases.push_back({"cluster_sums " + settings, large, [s] { return make_sums(s); }});
  };
  for (const PointSettings& s :
       {PointSettings{1, 1, 1}, {70, 3, 2}, {65, 33, 64}, {200, 100, 65}, {130, 14, 150}, {64, 32, 7}, {129, 130, 17}})
    add(s);
  add({20'000, 100, 32}, true);
  return cases;
}

}  // namespace cbtm
