#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/device/device.h"

namespace cbtm {

/// The device whose operators are tested.
inline Device& device_under_test() {
  static const std::unique_ptr<Device> device = make_cpu_device();
  return *device;
}

/// Uniform in [-scale, scale).
inline std::vector<float> random_values(int64_t count, uint64_t seed, float scale = 1) {
  PhiloxStream stream(seed, 99);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = scale * (2 * static_cast<float>(stream.next_uniform()) - 1);
  return values;
}

inline TensorView as_matrix(std::vector<float>& values, int64_t rows) {
  return view_of(values.data(), rows, static_cast<int64_t>(values.size()) / rows);
}

/// Memory for what LinearForward saves, as it and LinearBackward take it.
inline TensorView as_saved(TensorView values) {
  const int64_t item = dtype_bytes(values.dtype);
  return {values.data, DType::u8, values.rows, values.columns * item, values.row_stride * item};
}

/// Largest difference, relative to max(1, largest value of `want`).
template <typename Got, typename Want>
double relative_error(const std::vector<Got>& got, const std::vector<Want>& want) {
  REQUIRE(got.size() == want.size());
  double largest = 1;
  double error = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
    const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
  }
  return error / largest;
}

/// Σ a b in float64: the scalar whose gradient finite differences check.
inline double weighted_sum(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// Compares gradient[i] with (f(x + h) - f(x - h)) / 2h for a spread of elements of x; f reads x.
template <typename Function>
void check_gradient(std::vector<float>& x, const std::vector<float>& gradient, const Function& f, float step = 1e-2f,
                    double tolerance = 2e-3) {
  REQUIRE(x.size() == gradient.size());
  const size_t stride = std::max<size_t>(1, x.size() / 40);
  for (size_t i = 0; i < x.size(); i += stride) {
    const float kept = x[i];
    x[i] = kept + step;
    const double above = f();
    x[i] = kept - step;
    const double below = f();
    x[i] = kept;
    const double numeric = (above - below) / (2 * static_cast<double>(step));
    CAPTURE(i);
    CHECK(std::abs(numeric - static_cast<double>(gradient[i])) <= tolerance * std::max(1.0, std::abs(numeric)));
  }
}

}  // namespace cbtm
