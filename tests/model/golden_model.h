#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

inline const std::filesystem::path kGoldenModels = std::filesystem::path(CBTM_TEST_DATA) / "opt/models";

inline Device& test_device() {
  static const std::unique_ptr<Device> device = make_cpu_device();
  return *device;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

/// Offsets of `count` sequences of `length` tokens each.
inline std::vector<int32_t> equal_offsets(int64_t count, int64_t length) {
  std::vector<int32_t> offsets;
  for (int64_t s = 0; s <= count; ++s) offsets.push_back(static_cast<int32_t>(s * length));
  return offsets;
}

}  // namespace cbtm
