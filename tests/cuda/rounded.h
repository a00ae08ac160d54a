#pragma once

#include <vector>

#include "cbtm/device/device_matrix.h"

namespace cbtm {

/// `values` on the device as `dtype` (a floating type), rounded by the host; `values` become what was rounded to.
inline DeviceMatrix upload_rounded(Device& device, std::vector<float>& values, int64_t rows, DType dtype) {
  const auto narrow = [&]<typename Element>(Element (*round)(float)) {
    std::vector<Element> rounded;
    for (float& value : values) {
      rounded.push_back(round(value));
      value = to_float(rounded.back());
    }
    return DeviceMatrix::copy_of<Element>(device, rounded, rows, "test");
  };
  if (dtype == DType::bf16) return narrow(to_bf16);
  if (dtype == DType::f16) return narrow(to_f16);
  return DeviceMatrix::copy_of<float>(device, values, rows, "test");
}

inline std::vector<float> download(const DeviceMatrix& matrix) {
  const auto widen = []<typename Element>(const std::vector<Element>& narrow) {
    std::vector<float> wide;
    for (const Element value : narrow) wide.push_back(to_float(value));
    return wide;
  };
  if (matrix.view().dtype == DType::bf16) return widen(matrix.to_host<bf16>());
  if (matrix.view().dtype == DType::f16) return widen(matrix.to_host<f16>());
  return matrix.to_host<float>();
}

/// Largest relative error of rounding to `dtype`.
inline double unit_roundoff(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
}

}  // namespace cbtm
