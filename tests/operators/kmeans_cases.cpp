// The steps of k-means between its products and sums. What they decide is the same on every device, to the bit.

#include <fmt/format.h>

#include "cbtm/device/cluster_operators.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct DrawSettings {
  int64_t n, dimensions;
  int64_t step = 2;
  double uniform = 0.5;
  enum class Points : uint8_t { any, equal, zero } points = Points::any;  ///< distances to the latest centre
};

/// What DrawCentre defines, on the distances that the device found.
int64_t drawn_one_after_another(const std::vector<double>& closest, double uniform, int64_t otherwise) {
  double total = 0;
  for (const double distance : closest) total += distance;
  double rest = uniform * total;
  for (size_t i = 0; i < closest.size() && total > 0; ++i) {
    rest -= closest[i];
    if (rest < 0) return static_cast<int64_t>(i);
  }
  return otherwise;
}

OperatorCase make_draw(const DrawSettings& s) {
  constexpr int64_t kOtherwise = 7;
  OperatorCase one;
  std::vector<double> points = rounded_to(uniform_values(s.n * s.dimensions, 1), DType::f32);
  if (s.points != DrawSettings::Points::any) std::ranges::fill(points, 0.0);
  if (s.points == DrawSettings::Points::equal)
    for (int64_t i = 0; i < s.n; ++i) points[static_cast<size_t>(i * s.dimensions)] = i == s.n / 2 ? 1 : 0;
  std::vector<double> before = uniform_values(s.n, 2);
  for (double& distance : before) distance = s.points == DrawSettings::Points::any ? std::abs(distance) : 1;
  std::vector<double> rows_chosen(static_cast<size_t>(s.step + 2), 0.0);
  rows_chosen[static_cast<size_t>(s.step - 1)] = static_cast<double>(s.n / 2);
  const Operand rows = one.input("rows", DType::f32, s.n, s.dimensions, points);
  const Operand closest =
      s.step == 1 ? one.output("closest", DType::f32, 1, s.n) : one.updated("closest", DType::f32, 1, s.n, before);
  const Operand chosen = one.updated("chosen", DType::i32, 1, s.step + 2, rows_chosen);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().draw_centre({.rows = on[rows],
                                            .closest = on[closest],
                                            .chosen = on[chosen],
                                            .step = s.step,
                                            .uniform = s.uniform,
                                            .otherwise = kOtherwise});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t i = 0; i < s.n; ++i) {
      Sum sum;
      for (int64_t d = 0; d < s.dimensions; ++d) {
        const Bounded difference = Bounded(e[rows].at(i, d)) - e[rows].at(s.n / 2, d);
        sum.add_product(difference, difference);
      }
      Bounded least = sum.result();
      if (s.step > 1 && e[closest].at(0, i) < least.value) least = {e[closest].at(0, i), least.error};
      e.expect(closest, 0, i, least);
    }
    std::vector<double> any;
    for (int64_t i = 0; i < s.n; ++i) any.push_back(static_cast<double>(i));
    for (int64_t c = 0; c < s.step + 2; ++c)
      e.expect_one_of(chosen, 0, c, c == s.step ? any : std::vector<double>{e[chosen].at(0, c)});
  };
  one.verify = [=](const OperandsOnDevice& on, std::vector<std::string>& problems) {
    const int64_t want = drawn_one_after_another(on.values(closest), s.uniform, kOtherwise);
    const auto got = static_cast<int64_t>(on.values(chosen)[static_cast<size_t>(s.step)]);
    if (got != want) problems.push_back(fmt::format("row {} was drawn, but by the definition it is {}", got, want));
  };
  return one;
}

OperatorCase make_sum(std::vector<double> numbers) {
  OperatorCase one;
  const auto n = static_cast<int64_t>(numbers.size());
  const Operand values = one.input("values", DType::f32, 1, n, std::move(numbers));
  const Operand sum = one.output("sum", DType::f64, 1, 1);
  one.run = [=](Device& device, OperandsOnDevice& on) { device.cluster_operators().sum_in_order(on[values], on[sum]); };
  one.reference = [=](Expectation& e) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += e[values].at(0, i);
    e.expect_one_of(sum, 0, 0, {total});
  };
  return one;
}

OperatorCase make_smallest(int64_t n, int64_t wanted, bool ties) {
  OperatorCase one;
  std::vector<double> numbers = rounded_to(uniform_values(n, 4), DType::f32);
  for (double& number : numbers) number = ties ? std::round(std::abs(number) * 3) : std::abs(number) * 1e-3;
  if (n > 10) numbers[3] = INFINITY;
  const Operand margins = one.input("margins", DType::f32, 1, n, numbers);
  // What lies behind the points found is the device's own.
  const Operand points = one.updated("points", DType::i32, 1, n, std::vector<double>(static_cast<size_t>(n), -1.0));
  const Operand count = one.output("count", DType::i64, 1, 1);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().smallest_margins(
        {.margins = on[margins], .wanted = wanted, .points = on[points], .count = on[count]});
  };
  one.reference = [=](Expectation& e) {
    std::vector<double> sorted;
    for (int64_t i = 0; i < n; ++i) sorted.push_back(e[margins].at(0, i));
    std::ranges::sort(sorted);
    int64_t found = 0;
    for (int64_t i = 0; i < n; ++i)
      if (e[margins].at(0, i) <= sorted[static_cast<size_t>(wanted - 1)])
        e.expect_one_of(points, 0, found++, {static_cast<double>(i)});
    for (int64_t i = found; i < n; ++i) e.expect_one_of(points, 0, i, {-1});
    e.expect_one_of(count, 0, 0, {static_cast<double>(found)});
  };
  return one;
}

OperatorCase make_labels(int64_t n, int64_t moved) {
  OperatorCase one;
  const std::vector<double> start = uniform_ids(n, 5, 6);
  std::vector<double> places;  // 0, 7, 14, ... : none twice
  for (int64_t i = 0; i < moved; ++i) places.push_back(static_cast<double>(i * 7 % n));
  const Operand before = one.input("before", DType::i32, 1, n, start);
  const Operand points = one.input("points", DType::i32, 1, moved, places);
  const Operand values = one.input("values", DType::i32, 1, moved, uniform_ids(moved, 5, 8));
  const Operand labels = one.updated("labels", DType::i32, 1, n, start);
  const Operand changes = one.output("changes", DType::i64, 1, 1);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().put_labels({.points = on[points], .values = on[values], .labels = on[labels]});
    device.cluster_operators().count_changes(on[before], on[labels], on[changes]);
  };
  one.reference = [=](Expectation& e) {
    std::vector<double> now = start;
    for (int64_t i = 0; i < moved; ++i) now[static_cast<size_t>(e[points].at(0, i))] = e[values].at(0, i);
    int64_t different = 0;
    for (int64_t i = 0; i < n; ++i) {
      e.expect_one_of(labels, 0, i, {now[static_cast<size_t>(i)]});
      different += now[static_cast<size_t>(i)] != start[static_cast<size_t>(i)] ? 1 : 0;
    }
    e.expect_one_of(changes, 0, 0, {static_cast<double>(different)});
  };
  return one;
}

/// Every third cluster has no rows.
OperatorCase make_means(int64_t n, int64_t dimensions, int64_t clusters) {
  OperatorCase one;
  std::vector<double> members, numbers = uniform_values(n, 5);
  for (int64_t j = 0; j < clusters; ++j) members.push_back(j % 3 == 1 ? 0 : static_cast<double>(j + 2));
  for (double& number : numbers) number = std::round(std::abs(number) * 20);  // some are equal
  const Operand sums = one.input("sums", DType::f64, clusters, dimensions, uniform_values(clusters * dimensions, 3));
  const Operand counts = one.input("counts", DType::i64, 1, clusters, members);
  const Operand rows = one.input("rows", DType::f32, n, dimensions, uniform_values(n * dimensions, 9));
  const Operand distances = one.input("distances", DType::f32, 1, n, numbers);
  const Operand centroids = one.output("centroids", DType::f32, clusters, dimensions);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().mean_centres({.sums = on[sums],
                                             .counts = on[counts],
                                             .rows = on[rows],
                                             .distances = on[distances],
                                             .centroids = on[centroids]});
  };
  one.reference = [=](Expectation& e) {
    std::vector<int64_t> farthest;
    for (int64_t i = 0; i < n; ++i) farthest.push_back(i);
    std::ranges::stable_sort(farthest,
                             [&](int64_t a, int64_t b) { return e[distances].at(0, a) > e[distances].at(0, b); });
    size_t empty = 0;
    for (int64_t j = 0; j < clusters; ++j) {
      const double count = e[counts].at(0, j);
      const int64_t row = count > 0 ? 0 : farthest[empty++];
      for (int64_t d = 0; d < dimensions; ++d)
        e.expect_one_of(centroids, j, d,
                        rounded_to({count > 0 ? e[sums].at(j, d) / count : e[rows].at(row, d)}, DType::f32));
    }
  };
  return one;
}

}  // namespace

CaseList kmeans_cases() {
  CaseList cases;
  const auto add_draw = [&](const std::string& name, const DrawSettings& s) {
    cases.push_back(
        {fmt::format("draw_centre {}x{} {}", s.n, s.dimensions, name), false, [s] { return make_draw(s); }});
  };
  using Points = DrawSettings::Points;
  for (const double uniform : {0.0, 0.3, 0.999999})
    for (const DrawSettings& size : {DrawSettings{9, 1}, {129, 33}, {300, 100}, {700, 5}})
      add_draw(fmt::format("at {}", uniform), {size.n, size.dimensions, size.n == 129 ? 1 : 3, uniform});
  add_draw("on the border of two rows", {640, 3, 2, 0.5, Points::equal});
  add_draw("on the first border", {640, 3, 2, 0, Points::equal});
  add_draw("of rows that are all centres", {640, 3, 1, 0.5, Points::zero});
  const auto add_sum = [&](const std::string& name, std::vector<double> numbers) {
    cases.push_back({"sum_in_order " + name, false, [numbers] { return make_sum(numbers); }});
  };
  add_sum("of one", {0.1});
  add_sum("of zeros", std::vector<double>(70, 0.0));
  add_sum("that is exact", rounded_to(uniform_values(3000, 1), DType::f32));
  std::vector<double> wide = rounded_to(uniform_values(3000, 1), DType::f32);
  for (size_t i = 0; i < wide.size(); i += 5) wide[i] = std::ldexp(1 + 0.3 * wide[i], -70 - static_cast<int>(i % 20));
  for (double& number : wide) number = std::abs(number);
  add_sum("that rounds", wide);
  for (const bool ties : {false, true})
    for (const auto& [n, wanted] : {std::pair<int64_t, int64_t>{1, 1}, {40, 7}, {1024, 1024}, {5000, 1}, {5000, 2100}})
      cases.push_back({fmt::format("smallest_margins {} of {}{}", wanted, n, ties ? ", ties" : ""), false,
                       [n = n, wanted = wanted, ties] { return make_smallest(n, wanted, ties); }});
  for (const auto& [n, moved] : {std::pair<int64_t, int64_t>{1, 1}, {500, 60}, {3001, 3000}})
    cases.push_back({fmt::format("put_labels, count_changes {} of {}", moved, n), false,
                     [n = n, moved = moved] { return make_labels(n, moved); }});
  for (const auto& [n, dimensions, clusters] :
       {std::tuple<int64_t, int64_t, int64_t>{6, 1, 2}, {300, 33, 7}, {50, 130, 9}})
    cases.push_back(
        {fmt::format("mean_centres {}x{} to {}", n, dimensions, clusters), false,
         [n = n, dimensions = dimensions, clusters = clusters] { return make_means(n, dimensions, clusters); }});
  return cases;
}

}  // namespace cbtm
