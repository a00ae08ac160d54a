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

inline double largest_magnitude(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

/// Largest difference, relative to the largest value of `want`, or to `size` if that is more: the size of terms that
/// may cancel each other. Infinite if one is not a number.
template <typename Got, typename Want>
double relative_error(const std::vector<Got>& got, const std::vector<Want>& want, double size = 0) {
  REQUIRE(got.size() == want.size());
  double largest = size;
  double error = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
    const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
  }
  return error == 0 ? 0 : error / largest;
}

/// The relative error that rounding explains in float32 sums of so many terms. The k-th partial sum is rounded by up to
/// u of itself (u = 2^-24), in a random direction (Higham and Mary, "A new approach to probabilistic rounding error
/// analysis", 2019), so the squares of these errors add up. Terms of one sign make the k-th partial sum k / terms of
/// the result, terms of random signs √(k / terms); the root of the squares is √terms u of the result at most. A few
/// roundings come before and after the sum.
inline double sum_error(int64_t terms) { return (std::sqrt(static_cast<double>(terms)) + 8) * 0x1p-24; }

}  // namespace cbtm
