// Quantised weights as matrices of floating type, for products of many rows.

#include "cbtm/device/linear_operands.h"
#include "dequantise.h"
#include "dispatch.h"
#include "elements.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;

/// Eight columns of a row, by accesses of 16 bytes where kAligned.
template <bool kAligned, typename Element>
__device__ void store_eight(Element* target, int available, const float (&values)[8]) {
  constexpr int kLength = 16 / sizeof(Element);
#pragma unroll
  for (int i = 0; i < 8; i += kLength) {
    float part[kLength];
#pragma unroll
    for (int k = 0; k < kLength; ++k) part[k] = values[i + k];
    store_packed<Element, kLength>(target + i, available - i, kAligned, part);
  }
}

// wide[o][i] = scale[o] * weight[o][i]: for products of more rows. A block a row; 1 byte read, an element written a
// weight; 8 of them a thread where rows allow.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    dequantise_rows(const int8_t* __restrict__ weight, int64_t weight_stride, const float* __restrict__ scales,
                    Element* __restrict__ wide, int64_t wide_stride, int64_t in) {
  const int64_t row = blockIdx.x;
  const float scale = scales[row];
  for (int64_t i = int64_t{8} * threadIdx.x; i < in; i += 8 * kThreads) {
    const int available = static_cast<int>(min(int64_t{8}, in - i));
    float values[8];
    load_packed<int8_t, 8>(weight + row * weight_stride + i, available, kAligned).unpack(values);
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] *= scale;
    store_eight<kAligned>(wide + row * wide_stride + i, available, values);
  }
}

// wide[o][i] = scale[o][group of i] * value[o][i], of int4 weights. A block a row; a thread takes half a group: 8
// bytes, its low halves and its high halves are 8 columns each. Bytes: 18 read a group, 32 elements written.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    dequantise_int4_rows(const uint8_t* __restrict__ weight, int64_t weight_stride, const f16* __restrict__ scales,
                         int64_t scales_stride, Element* __restrict__ wide, int64_t wide_stride, int in) {
  const int64_t row = blockIdx.x;
  for (int half = static_cast<int>(threadIdx.x);; half += kThreads) {
    const int group = half / 2, column = group * static_cast<int>(kInt4Group) + half % 2 * 8;
    if (column >= in) break;
    const float scale = widened(scales[row * scales_stride + group]);
    const uint2 codes = *reinterpret_cast<const uint2*>(weight + row * weight_stride + half * 8);
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      float values[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint32_t code = (k < 4 ? codes.x : codes.y) >> (8 * (k % 4) + 4 * high) & 15u;
        values[k] = scale * static_cast<float>(static_cast<int>(code) - 8);
      }
      store_eight<kAligned>(wide + row * wide_stride + column + 16 * high, in - column - 16 * high, values);
    }
  }
}

}  // namespace

void dequantise(Context& context, ConstTensorView weight, ConstTensorView scales, TensorView wide) {
  if (weight.size() == 0) return;
  const auto rows = static_cast<unsigned>(weight.rows);
  const bool aligned = rows_aligned(wide, 16) && (weight.dtype != DType::i8 || rows_aligned(weight, 8));
  dispatch_floating(wide.dtype, [&]<typename Element>() {
    dispatch_bool(aligned, [&]<bool kAligned>() {
      if (weight.dtype == DType::i8)
        dequantise_rows<kAligned><<<rows, kThreads, 0, context.stream>>>(weight.as<int8_t>(), weight.row_stride,
                                                                         scales.as<float>(), wide.as<Element>(),
                                                                         wide.row_stride, wide.columns);
      else
        dequantise_int4_rows<kAligned><<<rows, kThreads, 0, context.stream>>>(
            weight.as<uint8_t>(), weight.row_stride, scales.as<f16>(), scales.row_stride, wide.as<Element>(),
            wide.row_stride, static_cast<int>(wide.columns));
    });
  });
  CBTM_CUDA_LAUNCHED("dequantise");
}

}  // namespace cbtm::cuda
