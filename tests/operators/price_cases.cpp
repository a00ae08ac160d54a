#include <fmt/format.h>

#include "cbtm/device/cluster_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/order_statistic.h"

namespace cbtm {
namespace {

struct PriceSettings {
  int64_t n, clusters;
  bool ties = false;     ///< costs are whole numbers
  bool sample = false;   ///< every other row of the costs
  bool started = false;  ///< the prices are not 0 at first
};

std::vector<double> costs_of(const PriceSettings& s) {
  std::vector<double> costs = uniform_values(s.n * s.clusters, 6);
  if (s.ties)
    for (double& cost : costs) cost = std::round(cost * 3);
  return costs;
}
std::vector<double> prices_of(const PriceSettings& s) {
  return s.started ? rounded_to(uniform_values(s.clusters, 7), DType::f32)
                   : std::vector<double>(static_cast<size_t>(s.clusters));
}
Placement costs_placement(const PriceSettings& s) { return {s.sample ? s.clusters : 0, 0}; }

OperatorCase make_sweep(const PriceSettings& s) {
  OperatorCase one;
  const Operand costs = one.input("costs", DType::f32, s.n, s.clusters, costs_of(s), costs_placement(s));
  const Operand prices = one.updated("prices", DType::f64, 1, s.clusters, prices_of(s));
  const std::vector<int64_t> ranks(static_cast<size_t>(s.clusters), std::max<int64_t>(0, s.n / s.clusters - 1));
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().price_sweep({.costs = on[costs], .ranks = ranks, .prices = on[prices]});
  };
  one.reference = [=](Expectation& e) {
    std::vector<Bounded> now;
    for (int64_t j = 0; j < s.clusters; ++j) now.push_back(e[prices].at(0, j));
    for (int64_t j = 0; j < s.clusters; ++j) {
      if (s.clusters > 1) {
        std::vector<Bounded> advantages;  // in float32 at worst
        for (int64_t i = 0; i < s.n; ++i) {
          std::vector<Bounded> others;
          for (int64_t b = 0; b < s.clusters; ++b)
            if (b != j) others.push_back(e[costs].at(i, b) + now[static_cast<size_t>(b)]);
          advantages.push_back(-(order_statistic(others, 0) - e[costs].at(i, j)));
        }
        now[static_cast<size_t>(j)] = -order_statistic(advantages, ranks[static_cast<size_t>(j)]);
      }
      e.expect(prices, 0, j, now[static_cast<size_t>(j)]);
    }
  };
  return one;
}

OperatorCase make_assignment(const PriceSettings& s) {
  OperatorCase one;
  const Operand costs = one.input("costs", DType::f32, s.n, s.clusters, costs_of(s), costs_placement(s));
  const Operand prices = one.input("prices", DType::f64, 1, s.clusters, prices_of(s));
  const Operand labels = one.output("labels", DType::i32, 1, s.n);
  const Operand margins = one.output("margins", DType::f32, 1, s.n);
  const Operand counts = one.output("counts", DType::i64, 1, s.clusters);
  const Operand dual_sum = one.output("dual_sum", DType::f64, 1, 1);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().assign_at_prices({.costs = on[costs],
                                                 .prices = on[prices],
                                                 .labels = on[labels],
                                                 .margins = on[margins],
                                                 .counts = on[counts],
                                                 .dual_sum = on[dual_sum]});
  };
  one.reference = [=](Expectation& e) {
    // Sums of two numbers in float64 are the same everywhere, and so are labels and margins.
    std::vector<int64_t> points(static_cast<size_t>(s.clusters));
    Objective dual;
    for (int64_t i = 0; i < s.n; ++i) {
      std::vector<double> priced;
      for (int64_t j = 0; j < s.clusters; ++j) priced.push_back(e[costs].at(i, j) + e[prices].at(0, j));
      const auto best = std::ranges::min_element(priced) - priced.begin();
      const double least = priced[static_cast<size_t>(best)];
      ++points[static_cast<size_t>(best)];
      dual.add(least);
      std::ranges::sort(priced);
      e.expect_one_of(labels, 0, i, {static_cast<double>(best)});
      e.expect_one_of(margins, 0, i, rounded_to({s.clusters > 1 ? priced[1] - least : INFINITY}, DType::f32));
    }
    for (int64_t j = 0; j < s.clusters; ++j)
      e.expect_one_of(counts, 0, j, {static_cast<double>(points[static_cast<size_t>(j)])});
    e.expect(dual_sum, 0, 0, {dual.value, 2 * static_cast<double>(s.n) * 0x1p-53 * dual.size});
  };
  return one;
}

}  // namespace

CaseList price_cases() {
  CaseList cases;
  const auto add = [&](const PriceSettings& s, bool large = false) {
    const std::string settings = fmt::format("{}x{}{}{}{}", s.n, s.clusters, s.ties ? ", ties" : "",
                                             s.sample ? ", every other row" : "", s.started ? ", from prices" : "");
    cases.push_back({"price_sweep " + settings, large, [s] { return make_sweep(s); }});
    cases.push_back({"assign_at_prices " + settings, large, [s] { return make_assignment(s); }});
  };
  for (const bool started : {false, true})
    for (const bool sample : {false, true}) {
      add({1, 3, false, sample, started});
      add({50, 2, false, sample, started});
      add({600, 5, true, sample, started});
      add({500, 24, false, sample, started});
      add({120, 40, false, sample, started});
      add({40, 1, false, sample, started});
    }
  add({2500, 9, false, false, true});  // more than one block, and than one group of columns
  add({1100, 18, true, false, false});
  add({20'000, 32}, true);
  return cases;
}

}  // namespace cbtm
