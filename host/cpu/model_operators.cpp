#include "cpu/model_operators.h"

#include "cbtm/base/threads.h"

namespace cbtm {

float* CpuModelOperators::scratch(int slot, int64_t count) {
  std::vector<float>& buffer = scratch_[slot];
  if (static_cast<int64_t>(buffer.size()) < count) {
    buffer.clear();
    buffer.resize(static_cast<size_t>(count));
  }
  return buffer.data();
}

int64_t CpuModelOperators::bytes_with_products(int64_t count) {
  return (count + thread_count() * cpu::kProductScratch) * 4;
}

namespace cpu {

const float* widened_rows(const Kernels& kernels, ConstTensorView weight, int64_t first, int64_t count, float* buffer) {
  if (weight.dtype == DType::f32) return weight.as<float>() + first * weight.row_stride;
  for (int64_t row = 0; row < count; ++row) {
    float* out = buffer + row * weight.columns;
    if (weight.dtype == DType::bf16) {
      kernels.widen_bf16(weight.as<bf16>() + (first + row) * weight.row_stride, weight.columns, out);
    } else if (weight.dtype == DType::i8) {
      kernels.widen_i8(weight.as<int8_t>() + (first + row) * weight.row_stride, weight.columns, out);
    } else {
      const f16* in = weight.as<f16>() + (first + row) * weight.row_stride;
      for (int64_t column = 0; column < weight.columns; ++column) out[column] = to_float(in[column]);
    }
  }
  return buffer;
}

}  // namespace cpu
}  // namespace cbtm
