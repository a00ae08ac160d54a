#include "tests/operators/check_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cbtm {
namespace {

constexpr double kStep = 0x1p-10;
/// Elements of a gradient that are checked.
constexpr size_t kPointsMax = 48;

/// The first elements outside of their bounds, and the number of the others.
void compare_values(const HostMatrix& matrix, Operand operand, const Expectation& expectation,
                    const std::vector<double>& got, std::vector<std::string>& problems) {
  constexpr int kShown = 3;
  int wrong = 0;
  for (int64_t i = 0; i < matrix.rows * matrix.columns; ++i) {
    const Expectation::Element& want = expectation.element(operand, i);
    const double value = got[static_cast<size_t>(i)];
    if (expectation.met(operand, i, value)) continue;
    if (++wrong > kShown) continue;
    const std::string place = fmt::format("{} ({}, {})", matrix.name, i / matrix.columns, i % matrix.columns);
    problems.push_back(want.set ? fmt::format("{} is {}, not {} within {:.3g}", place, value, want.value, want.error)
                                : fmt::format("{}: the reference expects nothing", place));
  }
  if (wrong > kShown) problems.push_back(fmt::format("{}: {} elements are wrong in all", matrix.name, wrong));
}

/// Whether the bytes outside of the rows' elements are as they were; for an operand that is only read, all of them.
bool surroundings_kept(const HostMatrix& matrix, const std::vector<char>& before, const std::vector<char>& after) {
  if (!matrix.written) return before == after;
  const int64_t item = dtype_bytes(matrix.dtype), row_bytes = matrix.row_stride() * item;
  const auto size = static_cast<int64_t>(before.size());
  const int64_t guard = (size - matrix.rows * row_bytes - matrix.placement.first_column * item) / 2;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t offset = i - guard - matrix.placement.first_column * item;
    const bool inside = offset >= 0 && offset < matrix.rows * row_bytes && offset % row_bytes < matrix.columns * item;
    if (!inside && before[static_cast<size_t>(i)] != after[static_cast<size_t>(i)]) return false;
  }
  return true;
}

}  // namespace

std::vector<std::string> check_case(Device& device, const OperatorCase& one) {
  std::vector<std::string> problems;
  Expectation expectation(one.matrices);
  one.reference(expectation);
  OperandsOnDevice on(device, one.matrices);
  one.run(device, on);
  std::vector<std::vector<char>> first;
  for (int index = 0; index < static_cast<int>(one.matrices.size()); ++index) {
    const Operand operand{index};
    const HostMatrix& matrix = one.matrix(operand);
    first.push_back(on.image(operand));
    if (!surroundings_kept(matrix, on.initial_image(operand), first.back()))
      problems.push_back(fmt::format("{}: memory that is not the operator's to write has changed", matrix.name));
    if (matrix.written) compare_values(matrix, operand, expectation, on.values(operand), problems);
  }
  if (one.verify) one.verify(on, problems);
  on.reset();
  one.run(device, on);
  for (int index = 0; index < static_cast<int>(one.matrices.size()); ++index)
    if (on.image({index}) != first[static_cast<size_t>(index)])
      problems.push_back(fmt::format("{}: other bits the second time", one.matrix({index}).name));
  return problems;
}

std::vector<std::string> check_gradients(const OperatorCase& one) {
  std::vector<std::string> problems;
  if (one.gradients.empty()) return problems;
  Expectation expectation(one.matrices);
  one.reference(expectation);
  for (const GradientCheck& check : one.gradients) {
    const HostMatrix& matrix = one.matrix(check.gradient);
    std::vector<double> point = check.point;
    for (size_t i = 0; i < point.size(); i += std::max<size_t>(1, point.size() / kPointsMax)) {
      double size = 0;
      const auto difference = [&](double step) {
        const double kept = point[i];
        point[i] = kept + step;
        const Objective above = check.objective(point);
        point[i] = kept - step;
        const Objective below = check.objective(point);
        point[i] = kept;
        size = std::max({size, above.size, below.size});
        return (above.value - below.value) / (2 * step);
      };
      const double near = difference(kStep), far = difference(2 * kStep);
      const double numeric = (4 * near - far) / 3;
      const double before = matrix.read ? matrix.values[i] : 0;
      const double want = expectation.element(check.gradient, static_cast<int64_t>(i)).value - before;
      const double error = std::abs(near - far) + 0x1p-40 * size / kStep;
      if (std::abs(numeric - want) <= error) continue;
      problems.push_back(fmt::format("{}[{}]: the reference's gradient is {}, finite differences give {} within {:.3g}",
                                     matrix.name, i, want, numeric, error));
    }
  }
  return problems;
}

}  // namespace cbtm
