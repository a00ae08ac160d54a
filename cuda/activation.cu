#include <algorithm>

#include "activation.h"
#include "dispatch.h"
#include "elements.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 8;  // 2048 threads of 256: what a multiprocessor holds

__device__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ float gelu_derivative(float x) {
  const float density = 0.3989422804014327f * expf(-0.5f * x * x);
  return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * density;
}

__device__ float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}
__device__ float gelu_tanh_derivative(float x) {
  const float t = tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 0.134145f * x * x);
}

// What is done to an element: `other` is the pre-activation or the layer's output.
struct GeluForward {
  static constexpr bool kReadsTarget = false;
  __device__ float operator()(float, float other) const { return gelu(other); }
};
struct GeluBackward {
  static constexpr bool kReadsTarget = true;
  __device__ float operator()(float gradient, float other) const { return gradient * gelu_derivative(other); }
};
struct GeluTanhForward {
  static constexpr bool kReadsTarget = false;
  __device__ float operator()(float, float other) const { return gelu_tanh(other); }
};
struct GeluTanhBackward {
  static constexpr bool kReadsTarget = true;
  __device__ float operator()(float gradient, float other) const { return gradient * gelu_tanh_derivative(other); }
};
struct ReluBackward {
  static constexpr bool kReadsTarget = true;
  __device__ float operator()(float gradient, float other) const { return other > 0 ? gradient : 0.0f; }
};

// target[r, c] = function(target[r, c], other[r, c])
//
// mapping   grid-stride over groups of 16 bytes of `target`'s rows; a row's last group may be short.
// bytes     rows * columns * (read other, read target but for the forward GELU, write target); nothing moves twice.
// numerics  float32 arithmetic, one rounding to the target's type.
template <typename Element, typename Function>
__global__ void __launch_bounds__(kThreads)
    elementwise(const Element* other, int64_t other_stride, Element* target, int64_t target_stride, int64_t rows,
                int64_t columns, bool aligned, Function function) {
  constexpr int kLength = 16 / sizeof(Element);
  const int64_t groups = (columns + kLength - 1) / kLength;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < rows * groups;
       at += int64_t{gridDim.x} * kThreads) {
    const int64_t row = at / groups, column = at % groups * kLength;
    const int available = static_cast<int>(min(int64_t{kLength}, columns - column));
    Element* place = target + row * target_stride + column;
    float others[kLength], values[kLength] = {};
    load_packed<Element, kLength>(other + row * other_stride + column, available, aligned).unpack(others);
    if constexpr (Function::kReadsTarget) load_packed<Element, kLength>(place, available, aligned).unpack(values);
#pragma unroll
    for (int i = 0; i < kLength; ++i) values[i] = function(values[i], others[i]);
    store_packed<Element, kLength>(place, available, aligned, values);
  }
}

template <typename Function>
void launch_elementwise(Context& context, ConstTensorView other, TensorView target, Function function) {
  CBTM_ASSERT(other.rows == target.rows && other.columns == target.columns && other.dtype == target.dtype,
              "elementwise operands have one shape and type");
  if (target.size() == 0) return;
  const bool aligned = rows_aligned(other, 16) && rows_aligned(target, 16);
  dispatch_floating(target.dtype, [&]<typename Element>() {
    const int64_t groups = target.rows * ceil_divide(target.columns, 16 / static_cast<int64_t>(sizeof(Element)));
    const int64_t blocks = std::min<int64_t>(ceil_divide(groups, kThreads), int64_t{context.sm_count} * kBlocksPerSm);
    elementwise<Element, Function><<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(
        other.as<Element>(), other.row_stride, target.as<Element>(), target.row_stride, target.rows, target.columns,
        aligned, function);
  });
  CBTM_CUDA_LAUNCHED("elementwise");
}

// mask bit c % 8 of byte c / 8 of row r = output[r, c] > 0
//
// mapping   a thread a byte, grid-stride; bits beyond the row's end are 0.
// bytes     rows * columns * element + rows * columns / 8.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    relu_mask_kernel(const Element* output, int64_t stride, int64_t rows, int64_t columns, bool aligned, uint8_t* mask,
                     int64_t mask_stride, int64_t mask_columns) {
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < rows * mask_columns;
       at += int64_t{gridDim.x} * kThreads) {
    const int64_t row = at / mask_columns, byte = at % mask_columns;
    constexpr int kLength = 16 / sizeof(Element);
    unsigned bits = 0;
#pragma unroll
    for (int part = 0; part < 8; part += kLength) {
      const int64_t column = byte * 8 + part;
      const int available = static_cast<int>(max(int64_t{0}, min(int64_t{kLength}, columns - column)));
      float values[kLength];
      load_packed<Element, kLength>(output + row * stride + column, available, aligned).unpack(values);
#pragma unroll
      for (int i = 0; i < kLength; ++i) bits |= (values[i] > 0 ? 1u : 0u) << (part + i);
    }
    mask[row * mask_stride + byte] = static_cast<uint8_t>(bits);
  }
}

// sums[c] += Σ_r rows[r, c]
//
// mapping   a block 32 columns, 8 warps down the rows (row r by warp r % 8), then the warps in order through shared
//           memory. Only where cuBLASLt cannot sum beside its product, so not tuned for few columns and many rows.
// bytes     rows * columns * element + columns * 8.
// order     fixed: bit-identical from run to run.
constexpr int kSumWarps = 8;
template <typename Element>
__global__ void __launch_bounds__(32 * kSumWarps)
    column_sums(const Element* values, int64_t stride, int64_t rows, int64_t columns, float* sums) {
  __shared__ float partial[kSumWarps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = int64_t{blockIdx.x} * 32 + lane;
  float sum = 0;
  if (column < columns)
    for (int64_t row = warp; row < rows; row += kSumWarps) sum += widened(values[row * stride + column]);
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int other = 1; other < kSumWarps; ++other) sum += partial[other][lane];
  sums[column] += sum;
}

}  // namespace

void gelu_forward(Context& context, Activation kind, ConstTensorView pre_activation, TensorView output) {
  if (kind == Activation::gelu_tanh) return launch_elementwise(context, pre_activation, output, GeluTanhForward());
  launch_elementwise(context, pre_activation, output, GeluForward());
}
void gelu_backward(Context& context, Activation kind, ConstTensorView pre_activation, TensorView gradient) {
  if (kind == Activation::gelu_tanh) return launch_elementwise(context, pre_activation, gradient, GeluTanhBackward());
  launch_elementwise(context, pre_activation, gradient, GeluBackward());
}
void relu_backward(Context& context, ConstTensorView output, TensorView gradient) {
  launch_elementwise(context, output, gradient, ReluBackward());
}

void relu_mask(Context& context, ConstTensorView output, TensorView mask) {
  if (output.size() == 0) return;
  const int64_t blocks =
      std::min<int64_t>(ceil_divide(mask.size(), kThreads), int64_t{context.sm_count} * kBlocksPerSm);
  dispatch_floating(output.dtype, [&]<typename Element>() {
    relu_mask_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(
        output.as<Element>(), output.row_stride, output.rows, output.columns, rows_aligned(output, 16),
        mask.as<uint8_t>(), mask.row_stride, mask.columns);
  });
  CBTM_CUDA_LAUNCHED("relu_mask");
}

void add_column_sums(Context& context, ConstTensorView rows, TensorView sums) {
  CBTM_ASSERT(sums.columns == rows.columns, "a sum a column");
  if (rows.size() == 0) return;
  dispatch_floating(rows.dtype, [&]<typename Element>() {
    column_sums<<<static_cast<unsigned>(ceil_divide(rows.columns, 32)), 32 * kSumWarps, 0, context.stream>>>(
        rows.as<Element>(), rows.row_stride, rows.rows, rows.columns, sums.as<float>());
  });
  CBTM_CUDA_LAUNCHED("column_sums");
}

}  // namespace cbtm::cuda
