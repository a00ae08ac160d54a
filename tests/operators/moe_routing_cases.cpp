#include <fmt/format.h>

#include <cmath>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/moe_reference.h"

namespace cbtm {
namespace {

struct RoutingSettings {
  int64_t rows, width, experts;
  DType dtype = DType::f32;
  bool drops = true;  ///< with the capacity of training
  bool statistics = true;
  bool equal_rows = false;  ///< all tokens are the same, and so are all experts: everything is a tie
  bool broken_row = false;  ///< the last token is NaN
  Placement placement = {};

  int64_t capacity() const { return drops ? 2 * ceil_divide(rows, experts) : 0; }
};

std::string name_of(const char* what, const RoutingSettings& s) {
  return fmt::format("{} {} {}x{} of {}{}{}{}{}{}", what, dtype_name(s.dtype), s.rows, s.width, s.experts,
                     s.drops ? " dropping" : "", s.statistics ? "" : " uncounted", s.equal_rows ? " equal" : "",
                     s.broken_row ? " nan" : "", s.placement.gap > 0 ? " strided" : "");
}

/// Quarters, so that every sum is exact in float32 and choices do not hang on rounding.
std::vector<double> quarters(int64_t rows, int64_t columns, uint64_t seed, bool equal) {
  std::vector<double> values = uniform_ids(rows * columns, 9, seed);
  for (double& value : values) value = (value - 4) / 4;
  if (equal)
    for (size_t i = static_cast<size_t>(columns); i < values.size(); ++i)
      values[i] = values[i % static_cast<size_t>(columns)];
  return values;
}

std::vector<double> logits_of(const std::vector<double>& input, const std::vector<double>& router,
                              const RoutingSettings& s) {
  std::vector<double> logits;
  for (int64_t r = 0; r < s.rows; ++r)
    for (int64_t e = 0; e < s.experts; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < s.width; ++c)
        sum += input[static_cast<size_t>(r * s.width + c)] * router[static_cast<size_t>(e * s.width + c)];
      logits.push_back(sum);
    }
  return logits;
}

/// Of a row of logits.
std::vector<Bounded> gates_of(const double* logits, int64_t experts, Bounded* entropy = nullptr) {
  const double shift = *std::max_element(logits, logits + experts);
  std::vector<Bounded> gates;
  Sum total, mean;
  for (int64_t e = 0; e < experts; ++e) {
    gates.push_back(exp(Bounded(logits[e]) - Bounded(shift)));
    total.add(gates.back());
  }
  for (int64_t e = 0; e < experts; ++e) {
    Bounded& gate = gates[static_cast<size_t>(e)];
    gate = gate / total.result();
    mean.add(gate * (Bounded(logits[e]) - Bounded(shift)));
  }
  if (entropy != nullptr) *entropy = log(total.result()) - mean.result();
  return gates;
}

void expect_statistics(Expectation& e, Operand operand, const std::vector<double>& logits, const RoutedTokens& routed,
                       const RoutingSettings& s) {
  const auto add = [&](int64_t column, Bounded value) {
    e.expect(operand, 0, column, {e[operand].at(0, column) + value.value, value.error});
  };
  for (int64_t x = 0; x < s.experts; ++x) {
    const auto at = static_cast<size_t>(x);
    add(RoutingStatistics::first_choices(x), routed.first_counts[at]);
    add(RoutingStatistics::second_choices(s.experts, x), routed.second_counts[at]);
    add(RoutingStatistics::kept(s.experts, x), routed.offsets[at + 1] - routed.offsets[at]);
  }
  add(RoutingStatistics::dropped_first(s.experts), static_cast<double>(routed.dropped[0]));
  add(RoutingStatistics::dropped_second(s.experts), static_cast<double>(routed.dropped[1]));
  add(RoutingStatistics::dropped_both(s.experts), static_cast<double>(routed.dropped_both));
  Sum entropies;
  std::vector<Sum> gates(static_cast<size_t>(s.experts));
  for (int64_t r = 0; r < s.rows; ++r) {
    Bounded entropy;
    const std::vector<Bounded> row = gates_of(logits.data() + r * s.experts, s.experts, &entropy);
    entropies.add(entropy);
    for (size_t x = 0; x < row.size(); ++x) gates[x].add(row[x]);
  }
  Sum balance;
  for (size_t x = 0; x < gates.size(); ++x) balance.add_product(gates[x].result(), routed.first_counts[x]);
  add(RoutingStatistics::entropy(s.experts), entropies.result());
  add(RoutingStatistics::balance(s.experts),
      balance.result() * (static_cast<double>(s.experts) / static_cast<double>(s.rows)));
}

OperatorCase make_routing(const RoutingSettings& s) {
  OperatorCase one{.computed = s.dtype};
  std::vector<double> values = quarters(s.rows, s.width, 1, s.equal_rows);
  const std::vector<double> weights = quarters(s.experts, s.width, 2, s.equal_rows);
  if (s.broken_row)
    for (int64_t c = 0; c < s.width; ++c) values[static_cast<size_t>((s.rows - 1) * s.width + c)] = NAN;
  const std::vector<double> logits = logits_of(values, weights, s);
  const RoutedTokens routed = routed_tokens(logits, s.rows, s.experts, s.capacity());
  const Operand input = one.input("input", s.dtype, s.rows, s.width, values, s.placement);
  const Operand router = one.input("router", s.dtype, s.experts, s.width, weights);
  const RoutingOperands out{.logits = one.output("logits", DType::f32, s.rows, s.experts, s.placement),
                            .choices = one.output("choices", DType::i32, s.rows, 2),
                            .weights = one.output("weights", DType::f32, s.rows, 2),
                            .sorted_row = one.output("sorted_row", DType::i32, s.rows, 2),
                            .offsets = one.output("offsets", DType::i32, 1, s.experts + 1),
                            .sources = one.updated("sources", DType::i32, 1, 2 * s.rows,
                                                   std::vector<double>(static_cast<size_t>(2 * s.rows), -7)),
                            .first_counts = one.output("first_counts", DType::i32, 1, s.experts)};
  const int64_t columns = RoutingStatistics::columns(s.experts);
  const Operand statistics =
      s.statistics ? one.updated("statistics", DType::f64, 1, columns, uniform_ids(columns, 100, 3)) : Operand();
  one.flops = 2.0 * static_cast<double>(s.rows * s.width * s.experts);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().route_tokens({.input = on[input],
                                           .router = on[router],
                                           .capacity = s.capacity(),
                                           .routing = out.on(on),
                                           .statistics = on[statistics]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.rows; ++r) {
      for (int64_t x = 0; x < s.experts; ++x)
        e.expect(out.logits, r, x, logits[static_cast<size_t>(r * s.experts + x)]);
      for (int64_t j = 0; j < 2; ++j) {
        e.expect(out.choices, r, j, static_cast<double>(routed.choice(r, j)));
        e.expect(out.sorted_row, r, j, static_cast<double>(routed.row_of(r, j)));
        e.expect(out.weights, r, j, routed.weight(r, j));
      }
    }
    for (int64_t x = 0; x <= s.experts; ++x) e.expect(out.offsets, 0, x, routed.offsets[static_cast<size_t>(x)]);
    for (int64_t p = 0; p < 2 * s.rows; ++p)
      e.expect(out.sources, 0, p, p < routed.kept() ? routed.sources[static_cast<size_t>(p)] : -7);
    for (int64_t x = 0; x < s.experts; ++x)
      e.expect(out.first_counts, 0, x, routed.first_counts[static_cast<size_t>(x)]);
    if (s.statistics) expect_statistics(e, statistics, logits, routed, s);
  };
  return one;
}

OperatorCase make_routing_backward(const RoutingSettings& s) {
  OperatorCase one{.computed = s.dtype};
  constexpr double kBalanceScale = 0.25;
  const std::vector<double> values = quarters(s.rows, s.width, 1, s.equal_rows);
  const std::vector<double> weights = quarters(s.experts, s.width, 2, s.equal_rows);
  const std::vector<double> logits = logits_of(values, weights, s);
  const RoutedTokens routed = routed_tokens(logits, s.rows, s.experts, s.capacity());
  const Operand input = one.input("input", s.dtype, s.rows, s.width, values, s.placement);
  const Operand router = one.input("router", s.dtype, s.experts, s.width, weights);
  const RoutingOperands routing = add_routing(one, logits, routed, s.experts);
  const Operand gradients = one.input("weight_gradients", DType::f32, s.rows, 2, uniform_values(2 * s.rows, 4));
  const Operand logit_gradients = one.output("logit_gradients", DType::f32, s.rows, s.experts, {2, 1});
  const Operand input_gradient =
      one.updated("input_gradient", s.dtype, s.rows, s.width, uniform_values(s.rows * s.width, 5), s.placement);
  const Operand router_gradient =
      one.updated("router_gradient", DType::f32, s.experts, s.width, uniform_values(s.experts * s.width, 6));
  one.flops = 4.0 * static_cast<double>(s.rows * s.width * s.experts);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().route_tokens_backward({.input = on[input],
                                                    .router = on[router],
                                                    .routing = routing.on(on),
                                                    .weight_gradients = on[gradients],
                                                    .balance_scale = kBalanceScale,
                                                    .logit_gradients = on[logit_gradients],
                                                    .input_gradient = on[input_gradient],
                                                    .router_gradient = on[router_gradient]});
  };
  const auto fraction = [=](int64_t expert) {
    return Bounded(routed.first_counts[static_cast<size_t>(expert)]) / Bounded(static_cast<double>(s.rows));
  };
  one.reference = [=](Expectation& e) {
    std::vector<Bounded> all;  // gradients of the logits as the products take them
    for (int64_t r = 0; r < s.rows; ++r) {
      const std::vector<Bounded> gates = gates_of(logits.data() + r * s.experts, s.experts);
      Sum mean;
      for (int64_t x = 0; x < s.experts; ++x) mean.add_product(fraction(x), gates[static_cast<size_t>(x)]);
      // The weights are read as float32 numbers.
      const Bounded difference = stored(routed.weight(r, 0).value, DType::f32) *
                                 stored(routed.weight(r, 1).value, DType::f32) *
                                 (Bounded(e[gradients].at(r, 0)) - Bounded(e[gradients].at(r, 1)));
      for (int64_t x = 0; x < s.experts; ++x) {
        Bounded gradient = Bounded(kBalanceScale * static_cast<double>(s.experts)) * gates[static_cast<size_t>(x)] *
                           (fraction(x) - mean.result());
        if (x == routed.choice(r, 0)) gradient = gradient + difference;
        if (x == routed.choice(r, 1)) gradient = gradient - difference;
        e.expect(logit_gradients, r, x, gradient);
        all.push_back(stored(gradient, s.dtype));  // for tensor cores
      }
    }
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.width; ++c) {
        Sum sum(s.dtype);
        sum.add(e[input_gradient].at(r, c));
        for (int64_t x = 0; x < s.experts; ++x)
          sum.add_product(all[static_cast<size_t>(r * s.experts + x)], e[router].at(x, c));
        e.expect(input_gradient, r, c, sum.result());
      }
    for (int64_t x = 0; x < s.experts; ++x)
      for (int64_t c = 0; c < s.width; ++c) {
        Sum sum(s.dtype);
        sum.add(e[router_gradient].at(x, c));
        for (int64_t r = 0; r < s.rows; ++r)
          sum.add_product(all[static_cast<size_t>(r * s.experts + x)], e[input].at(r, c));
        e.expect(router_gradient, x, c, sum.result());
      }
  };
  if (s.rows > 100) return one;

  // Σ weight_gradients * weights + balance_scale * rows * balance loss, with the choices and what is dropped as they
  // are.
  const std::vector<double> g = one.matrix(gradients).values;
  const auto objective = [=](const std::vector<double>& l) {
    Objective sum;
    for (int64_t r = 0; r < s.rows; ++r) {
      const double* row = l.data() + r * s.experts;
      const double shift = *std::max_element(row, row + s.experts);
      double total = 0;
      for (int64_t x = 0; x < s.experts; ++x) total += std::exp(row[x] - shift);
      for (int64_t x = 0; x < s.experts; ++x)
        sum.add(kBalanceScale * static_cast<double>(s.experts) * std::exp(row[x] - shift) / total *
                routed.first_counts[static_cast<size_t>(x)] / static_cast<double>(s.rows));
      if (routed.row_of(r, 0) < 0 || routed.row_of(r, 1) < 0) continue;
      const double weight = 1 / (1 + std::exp(row[routed.choice(r, 1)] - row[routed.choice(r, 0)]));
      sum.add(g[static_cast<size_t>(2 * r)] * weight);
      sum.add(g[static_cast<size_t>(2 * r + 1)] * (1 - weight));
    }
    return sum;
  };
  one.gradients.push_back({logit_gradients, logits, objective});
  one.gradients.push_back({input_gradient, values,
                           [=](const std::vector<double>& point) { return objective(logits_of(point, weights, s)); }});
  one.gradients.push_back({router_gradient, weights,
                           [=](const std::vector<double>& point) { return objective(logits_of(values, point, s)); }});
  return one;
}

}  // namespace

CaseList moe_routing_cases() {
  std::vector<RoutingSettings> small;
  for (const auto& [rows, width, experts] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 2},
                                             {3, 24, 8},
                                             {37, 16, 4},
                                             {50, 33, 7},
                                             {70, 20, 33},
                                             {300, 64, 8}})
    for (const DType dtype : kComputedTypes)
      for (const bool drops : {true, false})
        small.push_back({.rows = rows, .width = width, .experts = experts, .dtype = dtype, .drops = drops});
  for (const DType dtype : kComputedTypes) {
    small.push_back({.rows = 40, .width = 24, .experts = 5, .dtype = dtype, .statistics = false});
    small.push_back({.rows = 40, .width = 24, .experts = 5, .dtype = dtype, .equal_rows = true});
    small.push_back({.rows = 33, .width = 7, .experts = 256, .dtype = dtype, .equal_rows = true});
    small.push_back({.rows = 41, .width = 24, .experts = 6, .dtype = dtype, .placement = {5, 3}});
    small.push_back({.rows = 1100, .width = 8, .experts = 3, .dtype = dtype});
    small.push_back({.rows = 2100, .width = 4, .experts = 256, .dtype = dtype});
  }
  CaseList cases;
  for (const RoutingSettings& s : small) {
    cases.push_back({name_of("route_tokens", s), false, [s] { return make_routing(s); }});
    if (s.statistics)
      cases.push_back({name_of("route_tokens_backward", s), false, [s] { return make_routing_backward(s); }});
  }
  for (const DType dtype : kComputedTypes) {
    const RoutingSettings broken{
        .rows = 20, .width = 24, .experts = 4, .dtype = dtype, .drops = false, .statistics = false, .broken_row = true};
    cases.push_back({name_of("route_tokens", broken), false, [broken] { return make_routing(broken); }});
    const RoutingSettings large{.rows = kTrainingRows, .width = kHidden, .experts = 8, .dtype = dtype};
    cases.push_back({name_of("route_tokens", large), true, [large] { return make_routing(large); }});
    cases.push_back({name_of("route_tokens_backward", large), true, [large] { return make_routing_backward(large); }});
  }
  return cases;
}

}  // namespace cbtm
