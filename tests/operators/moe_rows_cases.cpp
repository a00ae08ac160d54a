#include <fmt/format.h>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/dropout_reference.h"
#include "tests/operators/moe_reference.h"

namespace cbtm {
namespace {

struct RowsSettings {
  int64_t rows, width, experts;
  DType dtype = DType::f32;
  bool drops = true;
  bool accumulate = false;  ///< of the scattering
  bool in_place = false;    ///< of the combination's backward pass
  double dropout = 0.1;
  int64_t first_row = 0;
  Placement placement = {};
};

std::string name_of(const char* what, const RowsSettings& s) {
  return fmt::format("{} {} {}x{} of {}{}{}{}", what, dtype_name(s.dtype), s.rows, s.width, s.experts,
                     s.drops ? " dropping" : "",
                     s.accumulate ? " accumulating"
                     : s.in_place ? " in place"
                                  : "",
                     s.placement.gap > 0 ? " strided" : "");
}

/// A routing of the tokens, and a matrix of sorted rows.
struct SortedRows {
  std::vector<double> logits;
  RoutedTokens routed;
  RoutingOperands operands;

  SortedRows(OperatorCase& one, const RowsSettings& s)
      : logits(coarse_logits(s.rows, s.experts, 1)),
        routed(routed_tokens(logits, s.rows, s.experts, s.drops ? 2 * ceil_divide(s.rows, s.experts) : 0)),
        operands(add_routing(one, logits, routed, s.experts)) {}
};

std::vector<double> sorted_values(const RowsSettings& s, uint64_t seed) {
  return uniform_values(2 * s.rows * s.width, seed);
}

Dropout dropout_of(const RowsSettings& s, int64_t choice) {
  return {.probability = static_cast<float>(s.dropout),
          .seed = 11,
          .step = 5,
          .site = static_cast<uint32_t>(6 + choice),
          .first_row = s.first_row};
}

OperatorCase make_gather(const RowsSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const SortedRows rows(one, s);
  const Operand source =
      one.input("source", s.dtype, s.rows, s.width, uniform_values(s.rows * s.width, 2), s.placement);
  const Operand sorted = one.updated("sorted", s.dtype, 2 * s.rows, s.width, sorted_values(s, 3), s.placement);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().gather_expert_rows(
        {.source = on[source], .routing = rows.operands.on(on), .sorted = on[sorted]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t p = 0; p < 2 * s.rows; ++p)
      for (int64_t c = 0; c < s.width; ++c)
        e.expect_one_of(sorted, p, c,
                        {p < rows.routed.kept() ? e[source].at(rows.routed.token(p), c) : e[sorted].at(p, c)});
  };
  return one;
}

OperatorCase make_scatter(const RowsSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const SortedRows rows(one, s);
  const Operand sorted = one.input("sorted", s.dtype, 2 * s.rows, s.width, sorted_values(s, 3), s.placement);
  const Operand out =
      s.accumulate ? one.updated("out", s.dtype, s.rows, s.width, uniform_values(s.rows * s.width, 4), s.placement)
                   : one.output("out", s.dtype, s.rows, s.width, s.placement);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().scatter_expert_rows(
        {.sorted = on[sorted], .routing = rows.operands.on(on), .out = on[out], .accumulate = s.accumulate});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.width; ++c) {
        Sum sum;
        if (s.accumulate) sum.add(e[out].at(r, c));
        for (int64_t j = 0; j < 2; ++j)
          if (const int64_t row = rows.routed.row_of(r, j); row >= 0) sum.add(e[sorted].at(row, c));
        e.expect(out, r, c, sum.result());
      }
  };
  return one;
}

/// Σ out_gradient * out, of sorted rows and of the weights of choices.
Objective combined(const RowsSettings& s, const RoutedTokens& routed, const std::vector<double>& out_gradient,
                   const std::vector<double>& sorted, const std::vector<double>& weights) {
  Objective sum;
  for (int64_t r = 0; r < s.rows; ++r)
    for (int64_t j = 0; j < 2; ++j)
      for (int64_t c = 0; c < s.width && routed.row_of(r, j) >= 0; ++c)
        sum.add(out_gradient[static_cast<size_t>(r * s.width + c)] * weights[static_cast<size_t>(2 * r + j)] *
                sorted[static_cast<size_t>(routed.row_of(r, j) * s.width + c)] *
                dropout_multiplier(dropout_of(s, j), r, c, s.width));
  return sum;
}

OperatorCase make_combine(const RowsSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const SortedRows rows(one, s);
  const Operand sorted = one.input("sorted", s.dtype, 2 * s.rows, s.width, sorted_values(s, 3), s.placement);
  const Operand out = one.output("out", s.dtype, s.rows, s.width, s.placement);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().combine_expert_rows(
        {.sorted = on[sorted], .routing = rows.operands.on(on), .dropout = dropout_of(s, 0), .out = on[out]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.width; ++c) {
        Sum sum;
        for (int64_t j = 0; j < 2; ++j)
          if (const int64_t row = rows.routed.row_of(r, j); row >= 0)
            sum.add(
                Bounded(e[rows.operands.weights].at(r, j)) *
                (Bounded(e[sorted].at(row, c)) * with_units(dropout_multiplier(dropout_of(s, j), r, c, s.width), 1)));
        e.expect(out, r, c, sum.result());
      }
  };
  return one;
}

OperatorCase make_combine_backward(const RowsSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const SortedRows rows(one, s);
  const std::vector<double> values = sorted_values(s, 3);
  const Operand sorted = s.in_place ? one.updated("sorted", s.dtype, 2 * s.rows, s.width, values, s.placement)
                                    : one.input("sorted", s.dtype, 2 * s.rows, s.width, values, s.placement);
  const Operand gradient =
      one.input("out_gradient", s.dtype, s.rows, s.width, uniform_values(s.rows * s.width, 4), s.placement);
  const Operand sorted_gradient =
      s.in_place ? sorted
      : rows.routed.kept() == 2 * s.rows
          ? one.output("sorted_gradient", s.dtype, 2 * s.rows, s.width, s.placement)
          : one.updated("sorted_gradient", s.dtype, 2 * s.rows, s.width, sorted_values(s, 5), s.placement);
  const Operand weight_gradients = one.output("weight_gradients", DType::f32, s.rows, 2);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().combine_expert_rows_backward({.sorted = on[sorted],
                                                           .out_gradient = on[gradient],
                                                           .routing = rows.operands.on(on),
                                                           .dropout = dropout_of(s, 0),
                                                           .sorted_gradient = on[sorted_gradient],
                                                           .weight_gradients = on[weight_gradients]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t p = rows.routed.kept(); p < 2 * s.rows; ++p)
      for (int64_t c = 0; c < s.width; ++c) e.expect_one_of(sorted_gradient, p, c, {e[sorted_gradient].at(p, c)});
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t row = rows.routed.row_of(r, j);
        Sum sum;
        for (int64_t c = 0; c < s.width && row >= 0; ++c) {
          const Bounded behind =
              Bounded(e[gradient].at(r, c)) * with_units(dropout_multiplier(dropout_of(s, j), r, c, s.width), 1);
          sum.add(behind * Bounded(e[sorted].at(row, c)));
          e.expect(sorted_gradient, row, c, Bounded(e[rows.operands.weights].at(r, j)) * behind);
        }
        e.expect(weight_gradients, r, j, row >= 0 ? sum.result() : Bounded(0.0));
      }
  };
  if (s.rows * s.width > 5000 || s.in_place) return one;
  const std::vector<double> g = one.matrix(gradient).values, y = one.matrix(sorted).values;
  const std::vector<double> w = one.matrix(rows.operands.weights).values;
  one.gradients.push_back({weight_gradients, w, [=, routed = rows.routed](const std::vector<double>& point) {
                             return combined(s, routed, g, y, point);
                           }});
  // Rows behind the kept ones have no gradient, and keep what they hold.
  if (rows.routed.kept() == 2 * s.rows) {
    one.gradients.push_back({sorted_gradient, y, [=, routed = rows.routed](const std::vector<double>& point) {
                               return combined(s, routed, g, point, w);
                             }});
  }
  return one;
}

}  // namespace

CaseList moe_rows_cases() {
  CaseList cases;
  const auto add = [&](RowsSettings s, bool large = false) {
    cases.push_back({name_of("gather_expert_rows", s), large, [s] { return make_gather(s); }});
    cases.push_back({name_of("combine_expert_rows", s), large, [s] { return make_combine(s); }});
    for (const bool other : {false, true}) {
      s.accumulate = other;
      cases.push_back({name_of("scatter_expert_rows", s), large, [s] { return make_scatter(s); }});
      s.accumulate = false;
      s.in_place = other;
      cases.push_back({name_of("combine_expert_rows_backward", s), large, [s] { return make_combine_backward(s); }});
      s.in_place = false;
    }
  };
  for (const DType dtype : kComputedTypes) {
    for (const bool drops : {true, false})
      for (const auto& [rows, width, experts] :
           {std::tuple<int64_t, int64_t, int64_t>{1, 1, 2}, {3, 33, 8}, {37, 64, 4}, {20, 129, 5}})
        add({.rows = rows, .width = width, .experts = experts, .dtype = dtype, .drops = drops});
    add({.rows = 21, .width = 40, .experts = 3, .dtype = dtype, .dropout = 0});
    add({.rows = 21, .width = 35, .experts = 3, .dtype = dtype, .first_row = 7, .placement = {13, 8}});
    add({.rows = 600, .width = 24, .experts = 9, .dtype = dtype});
    add({.rows = kTrainingRows, .width = kHidden, .experts = 8, .dtype = dtype}, true);
  }
  return cases;
}

}  // namespace cbtm
