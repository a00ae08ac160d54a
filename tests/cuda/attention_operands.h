#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cbtm/base/half_types.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/device.h"
#include "cuda_device.h"

namespace cbtm {

inline Device& cpu_device() {
  static const std::unique_ptr<Device> device = make_cpu_device();
  return *device;
}
inline Device& cuda_device() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

/// Half the distance of neighbouring numbers at 1.
inline double unit_roundoff(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
}

/// Values as a device holds them in `dtype`.
inline std::vector<char> encoded(const std::vector<float>& values, DType dtype) {
  std::vector<char> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) std::memcpy(&bytes[4 * i], &values[i], 4);
    const uint16_t bits = dtype == DType::bf16 ? to_bf16(values[i]).bits : to_f16(values[i]).bits;
    if (dtype != DType::f32) std::memcpy(&bytes[2 * i], &bits, 2);
  }
  return bytes;
}
inline std::vector<float> decoded(const std::vector<char>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    if (dtype == DType::f32) std::memcpy(&values[i], &bytes[4 * i], 4);
    if (dtype != DType::f32) std::memcpy(&bits, &bytes[2 * i], 2);
    if (dtype == DType::bf16) values[i] = to_float(bf16{bits});
    if (dtype == DType::f16) values[i] = to_float(f16{bits});
  }
  return values;
}

/// A matrix that lies on the CPU (float32, rounded to `dtype`) and on the GPU (in `dtype`): the columns
/// first_column .. first_column + columns of rows of `stride` elements.
class Matrix {
 public:
  Matrix() = default;
  Matrix(DType dtype, int64_t rows, int64_t columns, int64_t stride, int64_t first_column)
      : dtype_(dtype), rows_(rows), columns_(columns), stride_(stride), first_column_(first_column) {
    host_.resize(static_cast<size_t>(rows * stride));
    device_ = cuda_device().allocate(std::max<int64_t>(1, rows * stride) * dtype_bytes(dtype), "a test's matrix");
  }
  /// Uniform in [-scale, scale), rounded to the dtype, on both.
  Matrix& randomize(uint64_t seed, float scale = 1) {
    PhiloxStream stream(seed, 4);
    for (float& value : host_) value = scale * (2 * static_cast<float>(stream.next_uniform()) - 1);
    return upload();
  }
  /// After a change of the CPU's values: rounds them and copies them to the GPU.
  Matrix& upload() {
    const std::vector<char> bytes = encoded(host_, dtype_);
    host_ = decoded(bytes, dtype_);
    cuda_device().copy_to_device(device_.data(), bytes.data(), static_cast<int64_t>(bytes.size()));
    return *this;
  }
  TensorView cpu() {
    return TensorView(host_.data(), DType::f32, rows_, stride_).column_range(first_column_, columns_);
  }
  TensorView cuda() { return device_.view(dtype_, rows_, stride_).column_range(first_column_, columns_); }
  float& at(int64_t row, int64_t column) { return host_[static_cast<size_t>(row * stride_ + first_column_ + column)]; }
  /// What the GPU holds, [rows, columns]; `outside_kept`: what lies outside of the columns is still the CPU's.
  std::vector<float> from_cuda(bool* outside_kept = nullptr) {
    std::vector<char> bytes(host_.size() * static_cast<size_t>(dtype_bytes(dtype_)));
    cuda_device().copy_to_host(bytes.data(), device_.data(), static_cast<int64_t>(bytes.size()));
    const std::vector<float> all = decoded(bytes, dtype_);
    std::vector<float> inside;
    for (int64_t i = 0; i < rows_ * stride_; ++i) {
      const int64_t column = i % stride_ - first_column_;
      const auto at = static_cast<size_t>(i);
      if (column >= 0 && column < columns_)
        inside.push_back(all[at]);
      else if (outside_kept != nullptr && all[at] != host_[at])
        *outside_kept = false;
    }
    return inside;
  }
  std::vector<float> from_cpu() {
    std::vector<float> inside;
    for (int64_t row = 0; row < rows_; ++row)
      for (int64_t column = 0; column < columns_; ++column) inside.push_back(at(row, column));
    return inside;
  }

 private:
  DType dtype_ = DType::f32;
  int64_t rows_ = 0, columns_ = 0, stride_ = 0, first_column_ = 0;
  std::vector<float> host_;
  DeviceBuffer device_;
};

/// Largest |got - want| / tolerance; infinite where one is not a number and the other is.
inline double error_in_tolerances(const std::vector<float>& got, const std::vector<float>& want,
                                  const std::vector<double>& tolerance) {
  REQUIRE(got.size() == want.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i] || (std::isnan(want[i]) && std::isnan(got[i]))) continue;
    const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])) / tolerance[i];
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

}  // namespace cbtm
