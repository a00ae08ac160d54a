#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/device/device.h"
#include "tests/operators/bounded.h"

namespace cbtm {

/// Where a matrix lies in its memory: rows start `gap` elements after the end of the row before, and the first row
/// `first_column` elements behind an address that is a multiple of 64.
struct Placement {
  int64_t gap = 0;
  int64_t first_column = 0;
};

/// A matrix of a case on the host. Its values are numbers of `dtype`.
struct HostMatrix {
  std::string name;
  DType dtype = DType::f32;
  int64_t rows = 0, columns = 0;
  Placement placement;
  bool read = false, written = false;
  std::vector<double> values;  ///< [rows, columns], before the call; NaN (floats) or -1 where it is only written

  int64_t row_stride() const { return columns + placement.gap; }
  double at(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * columns + column)]; }
};

/// Names an operand of a case. The default stands for an operand that is not given.
struct Operand {
  int index = -1;
  explicit operator bool() const { return index >= 0; }
};

/// The operands of a case in the memory of a device.
class OperandsOnDevice {
 public:
  OperandsOnDevice(Device& device, const std::deque<HostMatrix>& matrices);
  /// Writes all operands as they are before the call, and what lies around them.
  void reset();
  /// An empty view for an operand that is not given.
  TensorView operator[](Operand operand) const;
  /// Bytes whose meaning is the device's own: u8 [rows, columns], or an empty view for no columns. The same call gives
  /// the same memory.
  TensorView opaque(int64_t rows, int64_t columns);
  /// The operand's memory with what lies around its rows.
  std::vector<char> image(Operand operand) const;
  /// The same before the call.
  const std::vector<char>& initial_image(Operand operand) const;
  std::vector<double> values(Operand operand) const;

 private:
  struct Memory {
    std::vector<char> initial;
    DeviceBuffer buffer;
    TensorView view;
  };
  Device& device_;
  const std::deque<HostMatrix>& matrices_;
  std::deque<Memory> memory_;
  DeviceBuffer opaque_;
};

/// What a case must give. A reference fills it.
class Expectation {
 public:
  explicit Expectation(const std::deque<HostMatrix>& matrices);
  const HostMatrix& operator[](Operand operand) const { return matrices_[static_cast<size_t>(operand.index)]; }

  /// `want` before it is rounded to the operand's type: that error is added here. Infinities and NaN must be met.
  void expect(Operand operand, int64_t row, int64_t column, Bounded want);
  /// Any of these: what is chosen between candidates that rounding cannot tell apart.
  void expect_one_of(Operand operand, int64_t row, int64_t column, std::vector<double> candidates);

  struct Element {
    bool set = false;
    double value = 0, error = 0;
  };
  const Element& element(Operand operand, int64_t index) const;
  /// Whether `got` is what was expected.
  bool met(Operand operand, int64_t index, double got) const;

 private:
  int64_t place(Operand operand, int64_t row, int64_t column) const;
  struct Matrix {
    std::vector<Element> elements;
    std::map<int64_t, std::vector<double>> candidates;  ///< of elements that may be one of several
  };
  const std::deque<HostMatrix>& matrices_;
  std::vector<Matrix> expected_;
};

/// A float64 sum, with the sum of the magnitudes of its terms: what a gradient is checked with.
struct Objective {
  double value = 0;
  double size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

/// Says that what is written to `gradient` is, beside what was there before, the gradient of `objective` at `point`.
/// Finite differences check that of the reference.
struct GradientCheck {
  Operand gradient;
  std::vector<double> point;  ///< as many values as the gradient has
  std::function<Objective(const std::vector<double>& point)> objective;
};

/// One call of an operator: its operands, a reference in float64 with a bound for each element of the result, and what
/// it costs. check_case.h says what is checked; cbtm_bench_operators times the same description.
struct OperatorCase {
  DType computed = DType::f32;  ///< a device must compute in this type (Device::computes_in) for the case to run there
  std::deque<HostMatrix> matrices;  ///< a deque: references to its elements stay
  std::function<void(Device& device, OperandsOnDevice& on)> run;
  std::function<void(Expectation& expectation)> reference;
  /// What must hold between the results beside the bounds, if anything; adds a line for each thing that does not.
  std::function<void(const OperandsOnDevice& on, std::vector<std::string>& problems)> verify;
  std::vector<GradientCheck> gradients;
  /// A multiply-add counts as two. 0: nothing worth counting, as in a copy.
  double flops = 0;
  /// Bytes that must be moved. 0: every operand once, and twice those that are read and written.
  double bytes = 0;

  /// Operands, in order: read only, written only, and read and written. `values` are rounded to `dtype` first.
  Operand input(std::string name, DType dtype, int64_t rows, int64_t columns, std::vector<double> values,
                Placement placement = {});
  Operand output(std::string name, DType dtype, int64_t rows, int64_t columns, Placement placement = {});
  Operand updated(std::string name, DType dtype, int64_t rows, int64_t columns, std::vector<double> values,
                  Placement placement = {});
  const HostMatrix& matrix(Operand operand) const { return matrices[static_cast<size_t>(operand.index)]; }
  double bytes_moved() const;
};

/// Cases by name. They are made when they are wanted, since those of real sizes are large.
struct NamedCase {
  std::string name;    ///< the operator's, then types and sizes: "linear_forward bf16 33x40x17 gelu"
  bool large = false;  ///< of real sizes: timed, not checked
  std::function<OperatorCase()> make;
};
using CaseList = std::vector<NamedCase>;

/// Uniform in [-scale, scale), the same numbers for the same seed.
std::vector<double> uniform_values(int64_t count, uint64_t seed, double scale = 1);
/// Uniform in 0 .. below - 1.
std::vector<double> uniform_ids(int64_t count, int64_t below, uint64_t seed);
/// As they are in `dtype`.
std::vector<double> rounded_to(std::vector<double> values, DType dtype);

}  // namespace cbtm
