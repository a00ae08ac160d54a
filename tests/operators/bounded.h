#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cbtm/device/tensor.h"

namespace cbtm {

// Running error analysis (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.3). A reference is
// written with Bounded numbers. Their values are worked out in float64, as plain loops would. Their errors say how far
// the same formula may be off when an operator works it out in float32. So every bound follows from the formula, the
// types and the operands, and none is chosen by hand.
//
// With u = 2^-24, the unit roundoff of float32:
//
//   x op y            the errors of x and y as op passes them on, and u * |x op y|
//   sum of n terms    Σ errors, and (n + 1) * u * Σ |terms|, in any order (Higham, section 4.2), with or without FMA
//   exp, log, ...     the error of the argument times the derivative, and a few u for the function itself
//   stored as a type  the unit roundoff of the type times |x|, and the distance of its least numbers

/// Half the distance of neighbouring numbers at 1: the largest relative error of rounding to `dtype`. 0 for integers.
inline double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f32: return 0x1p-24;
    case DType::bf16: return 0x1p-8;
    case DType::f16: return 0x1p-11;
    case DType::f64: return 0x1p-53;
    default: return 0;
  }
}
/// The largest absolute error of rounding a number that is too small for a full mantissa. Numbers below the normal
/// range of float32 may become 0.
inline double least_error(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::bf16: return 0x1p-126;
    case DType::f16: return 0x1p-25;
    default: return 0;
  }
}

inline constexpr double kRoundoff = 0x1p-24;

/// `value`, and the largest distance between it and what an operator may have in its place.
struct Bounded {
  double value = 0;
  double error = 0;

  Bounded() = default;
  Bounded(double exact) : value(exact) {}  // NOLINT: an operand is exact
  Bounded(double value_, double error_) : value(value_), error(error_) {}
  /// The largest magnitude that it may have.
  double size() const { return std::abs(value) + error; }
};

/// With one more rounding to float32.
inline Bounded rounded(double value, double error) { return {value, error + kRoundoff * (std::abs(value) + error)}; }

inline Bounded operator-(Bounded x) { return {-x.value, x.error}; }
inline Bounded operator+(Bounded x, Bounded y) { return rounded(x.value + y.value, x.error + y.error); }
inline Bounded operator-(Bounded x, Bounded y) { return rounded(x.value - y.value, x.error + y.error); }
inline Bounded operator*(Bounded x, Bounded y) {
  return rounded(x.value * y.value, std::abs(x.value) * y.error + std::abs(y.value) * x.error + x.error * y.error);
}
/// The divisor is never 0 within its error.
inline Bounded operator/(Bounded x, Bounded y) {
  const double quotient = x.value / y.value;
  return rounded(quotient, (x.error + std::abs(quotient) * y.error) / (std::abs(y.value) - y.error));
}

/// Off by `units` more roundings.
inline Bounded with_units(Bounded x, double units) { return {x.value, x.error + units * kRoundoff * x.size()}; }
/// Written to memory as `dtype`, or rounded to it for a tensor core.
inline Bounded stored(Bounded x, DType dtype) {
  return {x.value, x.error + unit_roundoff(dtype) * x.size() + least_error(dtype)};
}

/// The functions themselves are right to 4 units in the last place in the libraries in use. An exponential may also
/// round its argument once more, when it changes the base.
inline Bounded exp(Bounded x) {
  const double value = std::exp(x.value);
  if (value == 0) return 0.0;
  return {value, value * (std::expm1(x.error) + (8 + 2 * std::abs(x.value)) * kRoundoff) + least_error(DType::f32)};
}
inline Bounded log(Bounded x) {
  if (x.value == 0) return -INFINITY;
  const double value = std::log(x.value);
  const double passed_on = x.error < x.value ? -std::log1p(-x.error / x.value) : INFINITY;
  return {value, passed_on + 4 * kRoundoff * (std::abs(value) + 1)};
}
inline Bounded sqrt(Bounded x) {
  const double value = std::sqrt(x.value);
  // sqrt(x + e) - sqrt(x) <= e / sqrt(x), and never more than sqrt(e).
  const double passed_on = x.error == 0 ? 0 : std::min(std::sqrt(x.error), x.error / value);
  return rounded(value, passed_on);
}
inline Bounded erf(Bounded x) {
  const double value = std::erf(x.value);
  return {value, 1.13 * x.error + 4 * kRoundoff * std::abs(value)};  // the derivative is at most 2 / sqrt(pi)
}
inline Bounded tanh(Bounded x) {
  const double value = std::tanh(x.value);
  return {value, x.error + 4 * kRoundoff * std::abs(value)};
}
/// max(x, 0) rounds nothing.
inline Bounded positive_part(Bounded x) { return {std::max(x.value, 0.0), x.error}; }

/// A sum of float32 numbers in any order.
class Sum {
 public:
  /// `operands`: the type of what is multiplied. Tensor cores, which multiply 16-bit numbers, may cut instead of round
  /// where they add: 2 u for each addition.
  explicit Sum(DType operands = DType::f32) : addition_error_((operands == DType::f32 ? 1 : 2) * kRoundoff) {}

  void add(Bounded term) {
    value_ += term.value;
    size_ += term.size();
    error_ += term.error;
    ++count_;
  }
  /// A product that is added without being rounded, or rounded once.
  void add_product(Bounded x, Bounded y) {
    add({x.value * y.value, std::abs(x.value) * y.error + std::abs(y.value) * x.error + x.error * y.error});
  }
  /// Σ |terms|, with their errors.
  double size() const { return size_; }
  /// `depth`: the largest number of additions that one term goes through, if that is known to be less than their
  /// number.
  Bounded result(int64_t depth = INT64_MAX) const {
    const auto additions = static_cast<double>(std::min(depth, count_));
    return {value_, error_ + (additions + 1) * addition_error_ * size_};
  }

 private:
  double addition_error_;
  double value_ = 0, size_ = 0, error_ = 0;
  int64_t count_ = 0;
};

}  // namespace cbtm
