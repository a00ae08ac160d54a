#include <algorithm>

#include "activation.h"
#include "dispatch.h"
#include "elements.cuh"
#include "gelu.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 8;  // 2048 threads of 256: what a multiprocessor holds

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

/// Calls change(row, column, available, values) for groups of 16 bytes of a matrix's rows, grid-stride, and stores what
/// it leaves in the values; a row's last group may be short. With kReads they are those of the matrix, else zeros.
template <bool kReads, bool kAligned, typename Element, typename Change>
__device__ void change_groups(Element* target, int64_t stride, int64_t rows, int64_t columns, const Change& change) {
  constexpr int kLength = 16 / sizeof(Element);
  const int64_t groups = (columns + kLength - 1) / kLength;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < rows * groups;
       at += int64_t{gridDim.x} * kThreads) {
    const int64_t row = at / groups, column = at % groups * kLength;
    const int available = static_cast<int>(min(int64_t{kLength}, columns - column));
    Element* place = target + row * stride + column;
    float values[kLength] = {};
    if constexpr (kReads) load_packed<Element, kLength>(place, available, kAligned).unpack(values);
    change(row, column, available, values);
    store_packed<Element, kLength>(place, available, kAligned, values);
  }
}

// target[r, c] = function(target[r, c], other[r, c])
//
// mapping   change_groups.
// bytes     rows * columns * (read other, read target but for the forward GELU, write target); nothing moves twice.
// numerics  float32 arithmetic, one rounding to the target's type.
template <bool kAligned, typename Element, typename Function>
__global__ void __launch_bounds__(kThreads)
    elementwise(const Element* other, int64_t other_stride, Element* target, int64_t target_stride, int64_t rows,
                int64_t columns, Function function) {
  constexpr int kLength = 16 / sizeof(Element);
  change_groups<Function::kReadsTarget, kAligned>(
      target, target_stride, rows, columns, [&](int64_t row, int64_t column, int available, float(&values)[kLength]) {
        float others[kLength];
        load_packed<Element, kLength>(other + row * other_stride + column, available, kAligned).unpack(others);
#pragma unroll
        for (int i = 0; i < kLength; ++i) values[i] = function(values[i], others[i]);
      });
}

/// Blocks of change_groups for a matrix.
template <typename Element>
unsigned blocks_for(const Context& context, TensorView target) {
  const int64_t groups = target.rows * ceil_divide(target.columns, 16 / static_cast<int64_t>(sizeof(Element)));
  return static_cast<unsigned>(
      std::min<int64_t>(ceil_divide(groups, kThreads), int64_t{context.sm_count} * kBlocksPerSm));
}

template <typename Function>
void launch_elementwise(Context& context, ConstTensorView other, TensorView target, Function function) {
  CBTM_ASSERT(other.rows == target.rows && other.columns == target.columns && other.dtype == target.dtype,
              "elementwise operands have one shape and type");
  if (target.size() == 0) return;
  const bool aligned = rows_aligned(other, 16) && rows_aligned(target, 16);
  dispatch_floating(target.dtype, [&]<typename Element>() {
    dispatch_bool(aligned, [&]<bool kAligned>() {
      elementwise<kAligned, Element, Function><<<blocks_for<Element>(context, target), kThreads, 0, context.stream>>>(
          other.as<Element>(), other.row_stride, target.as<Element>(), target.row_stride, target.rows, target.columns,
          function);
    });
  });
  CBTM_CUDA_LAUNCHED("elementwise");
}

// mask bit c % 8 of byte c / 8 of row r = output[r, c] > 0
//
// mapping   a thread a byte, grid-stride; bits beyond the row's end are 0.
// bytes     rows * columns * element + rows * columns / 8.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    relu_mask_kernel(const Element* output, int64_t stride, int64_t rows, int64_t columns, uint8_t* mask,
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
      load_packed<Element, kLength>(output + row * stride + column, available, kAligned).unpack(values);
#pragma unroll
      for (int i = 0; i < kLength; ++i) bits |= (values[i] > 0 ? 1u : 0u) << (part + i);
    }
    mask[row * mask_stride + byte] = static_cast<uint8_t>(bits);
  }
}

// gradient[r, c] = 0 where bit c % 8 of byte c / 8 of row r of the mask is 0
//
// mapping   change_groups.
// bytes     rows * columns * (2 element + 1/8).
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    relu_mask_backward(const uint8_t* mask, int64_t mask_stride, Element* gradient, int64_t stride, int64_t rows,
                       int64_t columns) {
  constexpr int kLength = 16 / sizeof(Element);
  change_groups<true, kAligned>(gradient, stride, rows, columns,
                                [&](int64_t row, int64_t column, int, float(&values)[kLength]) {
                                  const unsigned bits = mask[row * mask_stride + column / 8] >> (column % 8);
#pragma unroll
                                  for (int i = 0; i < kLength; ++i)
                                    if ((bits >> i & 1u) == 0) values[i] = 0;
                                });
}

// rows[r, c] = activation(rows[r, c] + bias[c])
//
// mapping   change_groups.
// bytes     2 * rows * columns * element, the bias from the cache.
// numerics  float32, one rounding.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(Element* target, int64_t stride, const Element* bias, bool relu, int64_t rows, int64_t columns) {
  constexpr int kLength = 16 / sizeof(Element);
  change_groups<true, kAligned>(target, stride, rows, columns,
                                [&](int64_t, int64_t column, int available, float(&values)[kLength]) {
#pragma unroll
                                  for (int i = 0; i < kLength; ++i) {
                                    if (bias != nullptr && i < available) values[i] += widened(bias[column + i]);
                                    if (relu) values[i] = fmaxf(values[i], 0.0f);
                                  }
                                });
}

constexpr int kSumWarps = 8;
/// Parts into which the rows are cut: enough blocks to fill the GPU, and no part of a few rows.
int64_t sum_parts(const Context& context, int64_t rows, int64_t column_blocks) {
  const int64_t wanted = ceil_divide(int64_t{context.sm_count} * 4, column_blocks);
  return std::clamp<int64_t>(std::min(wanted, rows / (8 * kSumWarps)), 1, 64);
}
/// Columns of a block: a lane takes 16 bytes.
template <typename Element>
constexpr int kSumColumns = 32 * 16 / static_cast<int>(sizeof(Element));

// partial[part][c] = Σ of the rows of the part, rows[r, c]
//
// mapping   grid (columns / kSumColumns, parts); a warp takes every 8th row of the part, a lane 16 bytes of it, four
//           rows at a time; then the warps in order through shared memory.
// bytes     rows * columns * element, once; parts * columns * 4 written.
// order     fixed by the number of rows, columns and multiprocessors.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(32 * kSumWarps, 4)
    column_sums_of_parts(const Element* values, int64_t stride, int64_t rows, int64_t columns, float* partial) {
  constexpr int kLength = 16 / sizeof(Element);
  constexpr int kUnroll = 4;
  __shared__ float shared[kSumWarps][kLength][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = int64_t{blockIdx.x} * kSumColumns<Element> + lane * kLength;
  const int available = static_cast<int>(max(int64_t{0}, min(int64_t{kLength}, columns - column)));
  const int64_t first = rows * blockIdx.y / gridDim.y, last = rows * (blockIdx.y + 1) / gridDim.y;
  float sums[kLength] = {};
  int64_t row = first + warp;
  for (; row + (kUnroll - 1) * kSumWarps < last; row += kUnroll * kSumWarps) {
    Packed<Element, kLength> loaded[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      loaded[u] = load_packed<Element, kLength>(values + (row + u * kSumWarps) * stride + column, available, kAligned);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float of_row[kLength];
      loaded[u].unpack(of_row);
#pragma unroll
      for (int i = 0; i < kLength; ++i) sums[i] += of_row[i];
    }
  }
  for (; row < last; row += kSumWarps) {
    float of_row[kLength];
    load_packed<Element, kLength>(values + row * stride + column, available, kAligned).unpack(of_row);
#pragma unroll
    for (int i = 0; i < kLength; ++i) sums[i] += of_row[i];
  }
#pragma unroll
  for (int i = 0; i < kLength; ++i) shared[warp][i][lane] = sums[i];
  __syncthreads();
  for (int place = static_cast<int>(threadIdx.x); place < 32 * kLength; place += 32 * kSumWarps) {
    const int of_lane = place % 32, i = place / 32;
    const int64_t target = int64_t{blockIdx.x} * kSumColumns<Element> + of_lane * kLength + i;
    if (target >= columns) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kSumWarps; ++w) sum += shared[w][i][of_lane];
    partial[blockIdx.y * columns + target] = sum;
  }
}

// sums[c] = Σ_part partial[part][c], in order. A column a thread.
__global__ void __launch_bounds__(kThreads)
    add_parts(const float* partial, int64_t parts, int64_t columns, float* sums) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= columns) return;
  float sum = 0;
  for (int64_t part = 0; part < parts; ++part) sum += partial[part * columns + column];
  sums[column] = sum;
}

int64_t sum_column_blocks(ConstTensorView rows) { return ceil_divide(rows.columns, 32 * 16 / dtype_bytes(rows.dtype)); }

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
    dispatch_bool(rows_aligned(output, 16), [&]<bool kAligned>() {
      relu_mask_kernel<kAligned><<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(
          output.as<Element>(), output.row_stride, output.rows, output.columns, mask.as<uint8_t>(), mask.row_stride,
          mask.columns);
    });
  });
  CBTM_CUDA_LAUNCHED("relu_mask");
}

void apply_relu_mask(Context& context, ConstTensorView mask, TensorView gradient) {
  if (gradient.size() == 0) return;
  dispatch_floating(gradient.dtype, [&]<typename Element>() {
    dispatch_bool(rows_aligned(gradient, 16), [&]<bool kAligned>() {
      relu_mask_backward<kAligned><<<blocks_for<Element>(context, gradient), kThreads, 0, context.stream>>>(
          mask.as<uint8_t>(), mask.row_stride, gradient.as<Element>(), gradient.row_stride, gradient.rows,
          gradient.columns);
    });
  });
  CBTM_CUDA_LAUNCHED("relu_mask_backward");
}

void add_bias(Context& context, TensorView rows, ConstTensorView bias, bool relu) {
  CBTM_ASSERT(!bias || (bias.dtype == rows.dtype && bias.columns == rows.columns), "a bias a column");
  if (rows.size() == 0) return;
  dispatch_floating(rows.dtype, [&]<typename Element>() {
    dispatch_bool(rows_aligned(rows, 16), [&]<bool kAligned>() {
      add_bias_kernel<kAligned><<<blocks_for<Element>(context, rows), kThreads, 0, context.stream>>>(
          rows.as<Element>(), rows.row_stride, bias ? bias.as<Element>() : nullptr, relu, rows.rows, rows.columns);
    });
  });
  CBTM_CUDA_LAUNCHED("add_bias");
}

int64_t column_sums_scratch_bytes(const Context& context, ConstTensorView rows) {
  const int64_t parts = sum_parts(context, rows.rows, sum_column_blocks(rows));
  return parts > 1 ? parts * rows.columns * 4 : 0;
}

void column_sums(Context& context, ConstTensorView rows, TensorView sums) {
  CBTM_ASSERT(sums.columns == rows.columns, "a sum a column");
  if (rows.columns == 0) return;
  const int64_t column_blocks = sum_column_blocks(rows);
  const int64_t parts = sum_parts(context, rows.rows, column_blocks);
  auto* partial = parts > 1 ? static_cast<float*>(context.workspace(parts * rows.columns * 4)) : sums.as<float>();
  const dim3 grid(static_cast<unsigned>(column_blocks), static_cast<unsigned>(parts));
  dispatch_floating(rows.dtype, [&]<typename Element>() {
    dispatch_bool(rows_aligned(rows, 16), [&]<bool kAligned>() {
      column_sums_of_parts<kAligned><<<grid, 32 * kSumWarps, 0, context.stream>>>(rows.as<Element>(), rows.row_stride,
                                                                                  rows.rows, rows.columns, partial);
    });
  });
  CBTM_CUDA_LAUNCHED("column_sums");
  if (parts == 1) return;
  add_parts<<<static_cast<unsigned>(ceil_divide(rows.columns, kThreads)), kThreads, 0, context.stream>>>(
      partial, parts, rows.columns, sums.as<float>());
  CBTM_CUDA_LAUNCHED("add_parts");
}

}  // namespace cbtm::cuda
