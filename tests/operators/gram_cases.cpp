#include <fmt/format.h>

#include "cbtm/device/cluster_operators.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

/// Rows whose products are added in float32.
constexpr int64_t kPieceRows = 1024;

OperatorCase make_gram(int64_t rows, int64_t columns) {
  OperatorCase one;
  std::vector<double> values = uniform_values(rows * columns, 4);
  if (!values.empty()) values[values.size() / 2] = 1000;  // an outlier
  const Operand x = one.input("x", DType::f32, rows, columns, values);
  const Operand product = one.output("product", DType::f64, columns, columns);
  one.flops = 2.0 * static_cast<double>(rows * columns * columns);
  one.run = [=](Device& device, OperandsOnDevice& on) { device.cluster_operators().gram(on[x], on[product]); };
  one.reference = [=](Expectation& e) {
    for (int64_t i = 0; i < columns; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        Sum sum;
        for (int64_t r = 0; r < rows; ++r) sum.add_product(e[x].at(r, i), e[x].at(r, j));
        e.expect(product, i, j, sum.result(kPieceRows));
      }
  };
  return one;
}

OperatorCase make_solve(int64_t rows, int64_t columns) {
  OperatorCase one;
  // So well conditioned that errors do not grow much. What lies below the diagonal is not read.
  std::vector<double> triangle = uniform_values(columns * columns, 6);
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      double& value = triangle[static_cast<size_t>(i * columns + j)];
      value = j < i ? NAN : j == i ? 1 + std::abs(value) : value / static_cast<double>(columns);
      if (j == i && i % 7 == 4) value = 0;  // a dependent column
    }
  const Operand upper = one.input("upper", DType::f64, columns, columns, triangle);
  const Operand y = one.updated("y", DType::f32, rows, columns, uniform_values(rows * columns, 5));
  one.flops = static_cast<double>(rows * columns * columns);
  one.run = [=](Device& device, OperandsOnDevice& on) { device.cluster_operators().solve_upper(on[upper], on[y]); };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<Bounded> solved;
      for (int64_t j = 0; j < columns; ++j) {
        Sum rest;
        rest.add(e[y].at(r, j));
        for (int64_t i = 0; i < j; ++i) rest.add(-solved[static_cast<size_t>(i)] * e[upper].at(i, j));
        const double diagonal = e[upper].at(j, j);
        solved.push_back(diagonal == 0 ? Bounded(0.0) : stored(rest.result() / diagonal, DType::f32));
        if (diagonal == 0)
          e.expect_one_of(y, r, j, {0});
        else
          e.expect(y, r, j, solved.back());
      }
    }
  };
  return one;
}

}  // namespace

CaseList gram_cases() {
  CaseList cases;
  const auto add = [&](const char* name, OperatorCase (*make)(int64_t, int64_t), int64_t rows, int64_t columns,
                       bool large = false) {
    cases.push_back({fmt::format("{} {}x{}", name, rows, columns), large, [=] { return make(rows, columns); }});
  };
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1},
                                      {0, 3},
                                      {5, 64},
                                      {1000, 65},
                                      {1025, 110},
                                      {3000, 12},
                                      {2100, 130},
                                      {9000, 5}})
    add("gram", make_gram, rows, columns);
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 1}, {5, 31}, {18, 32}, {7, 33}, {37, 110}, {3, 200}, {2, 500}})
    add("solve_upper", make_solve, rows, columns);
  add("gram", make_gram, 20'000, 110, true);
  add("solve_upper", make_solve, 20'000, 110, true);
  return cases;
}

}  // namespace cbtm
