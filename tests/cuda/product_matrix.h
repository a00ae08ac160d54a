#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/half_types.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/tensor.h"
#include "device_context.h"

namespace cbtm::cuda {

/// Values on the host beside their copy on the GPU, of any floating type.
class Matrix {
 public:
  Matrix(DeviceContext& context, DType dtype, int64_t rows, int64_t columns, int64_t stride, uint64_t seed)
      : context_(context), dtype_(dtype), rows_(rows), columns_(columns), stride_(stride) {
    const int64_t count = std::max<int64_t>(1, rows * stride);
    PhiloxStream stream(seed, 1);
    std::vector<char> bytes(static_cast<size_t>(count * dtype_bytes(dtype)));
    values.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(2 * stream.next_uniform() - 1);
      float& kept = values[static_cast<size_t>(i)];
      if (dtype == DType::f32) {
        reinterpret_cast<float*>(bytes.data())[i] = kept = value;
      } else if (dtype == DType::bf16) {
        kept = to_float(reinterpret_cast<bf16*>(bytes.data())[i] = to_bf16(value));
      } else {
        kept = to_float(reinterpret_cast<f16*>(bytes.data())[i] = to_f16(value));
      }
    }
    data_ = context.allocate(static_cast<int64_t>(bytes.size()), "test");
    context.copy_to_device(data_, bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  ~Matrix() { cudaFree(data_); }

  TensorView view() const { return {data_, dtype_, rows_, columns_, stride_}; }
  double at(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * stride_ + column)]; }
  /// What the GPU holds now.
  std::vector<float> read() const {
    std::vector<char> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype_)));
    context_.copy_to_host(bytes.data(), data_, static_cast<int64_t>(bytes.size()));
    std::vector<float> result(values.size());
    for (size_t i = 0; i < result.size(); ++i) {
      if (dtype_ == DType::f32) result[i] = reinterpret_cast<const float*>(bytes.data())[i];
      if (dtype_ == DType::bf16) result[i] = to_float(reinterpret_cast<const bf16*>(bytes.data())[i]);
      if (dtype_ == DType::f16) result[i] = to_float(reinterpret_cast<const f16*>(bytes.data())[i]);
    }
    return result;
  }

  std::vector<float> values;

 private:
  DeviceContext& context_;
  DType dtype_;
  int64_t rows_, columns_, stride_;
  void* data_ = nullptr;
};

inline double unit_roundoff(DType dtype) {
  if (dtype == DType::bf16) return std::ldexp(1.0, -8);
  if (dtype == DType::f16) return std::ldexp(1.0, -11);
  return std::ldexp(1.0, -24);
}

}  // namespace cbtm::cuda
