#include <algorithm>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/gelu.h"
#include "cpu/matrix_product.h"
#include "cpu/model_operators.h"
#include "cpu/narrow_linear.h"

namespace cbtm {
namespace {

/// Bytes of output that stay in the cache between the product and bias and activation.
constexpr int64_t kEpilogueBytes = 1 << 20;
/// Elements of a half-precision weight matrix that are widened at a time for a product.
constexpr int64_t kWidenElements = 1 << 20;

/// Rows of a weight matrix of `in` columns that are widened at a time.
int64_t widened_rows_max(int64_t in, int64_t out) { return std::clamp<int64_t>(kWidenElements / in, 1, out); }

}  // namespace

int64_t CpuModelOperators::saved_activation_columns(Activation activation, DType, int64_t columns) const {
  return is_gelu(activation) ? columns * dtype_bytes(DType::f32) : 0;
}

int64_t CpuModelOperators::scratch_bytes(const LinearForward& arguments) const {
  const int64_t in = arguments.input.columns;
  if (const cpu::NarrowProduct* product = cpu::narrow_product(narrow_products_, arguments))
    return cpu::narrow_scratch(*product, arguments) * 4;
  return bytes_with_products(arguments.weight.dtype == DType::f32 ? 0
                                                                  : widened_rows_max(in, arguments.weight.rows) * in);
}

int64_t CpuModelOperators::scratch_bytes(const LinearBackward&) const { return bytes_with_products(0); }

void CpuModelOperators::linear_forward(const LinearForward& arguments) {
  const ConstTensorView input = arguments.input;
  const ConstTensorView weight = arguments.weight;
  const TensorView output = arguments.output;
  const int64_t rows = input.rows;
  const int64_t in = input.columns;
  const int64_t out = weight.rows;
  CBTM_ASSERT(output.columns == out && output.rows == rows, "shapes of a linear layer agree");
  CBTM_ASSERT(arguments.weights_fit(), "weights fit the input, and their scales");
  const TensorView pre_activation =
      is_gelu(arguments.activation) && arguments.saved ? saved_values(arguments.saved, DType::f32) : TensorView();
  const float* bias = arguments.bias ? arguments.bias.as<float>() : nullptr;

  const auto epilogue = [&](int64_t first_row, int64_t row_count, int64_t first, int64_t count) {
    const bool relu = arguments.activation == Activation::relu;
    if (bias == nullptr && arguments.activation == Activation::none) return;
    parallel_ranges(row_count, static_cast<double>(count) * 0.2, [&](int64_t begin, int64_t end) {
      for (int64_t row = first_row + begin; row < first_row + end; ++row) {
        float* values = output.as<float>() + row * output.row_stride + first;
        kernels_.bias_relu(values, bias != nullptr ? bias + first : nullptr, relu, count);
        if (!is_gelu(arguments.activation)) continue;
        if (pre_activation)
          std::copy_n(values, count, pre_activation.as<float>() + row * pre_activation.row_stride + first);
        cpu::apply_gelu(arguments.activation, values, count);
      }
    });
  };

  if (const cpu::NarrowProduct* product = cpu::narrow_product(narrow_products_, arguments)) {
    const int64_t block = cpu::narrow_block_rows(*product, arguments);
    float* const operand = scratch(1, cpu::narrow_scratch(*product, arguments));
    for (int64_t first = 0; first < rows; first += block) {
      const int64_t count = std::min(block, rows - first);
      cpu::multiply_narrow(*product, arguments, first, count, operand);
      epilogue(first, count, 0, out);
    }
    return;
  }
  const ConstTensorView scales = arguments.weight_scales;
  const bool few_rows_kernel = weight.contiguous() && scales.contiguous() && weight.dtype != DType::f16;
  CBTM_ASSERT(arguments.row_sums != RowSums::decode || few_rows_kernel, "decoding reads weights that lie together");
  if (arguments.row_sums == RowSums::decode ||
      (arguments.row_sums == RowSums::any && rows <= cpu::kFewRows && few_rows_kernel)) {
    parallel_ranges(out, static_cast<double>(in * rows) * 0.05, [&](int64_t begin, int64_t end) {
      const float* x = input.as<float>();
      float* y = output.as<float>();
      switch (weight.dtype) {
        case DType::f32:
          return kernels_.few_rows_f32(x, input.row_stride, rows, in, weight.as<float>(), begin, end, y,
                                       output.row_stride);
        case DType::bf16:
          return kernels_.few_rows_bf16(x, input.row_stride, rows, in, weight.as<bf16>(), begin, end, y,
                                        output.row_stride);
        default:
          return kernels_.few_rows_i4(x, input.row_stride, rows, in, weight.as<uint8_t>(), scales.as<f16>(), begin, end,
                                      y, output.row_stride);
      }
    });
    epilogue(0, rows, 0, out);
    return;
  }
  if (weight.dtype != DType::f32) {
    const int64_t block = widened_rows_max(in, out);
    float* widened = scratch(1, block * in);
    for (int64_t first = 0; first < out; first += block) {
      const int64_t count = std::min(block, out - first);
      parallel_ranges(count, static_cast<double>(in) * 0.2, [&](int64_t begin, int64_t end) {
        if (arguments.int4_weights()) {
          for (int64_t row = begin; row < end; ++row)
            kernels_.widen_i4(weight.as<uint8_t>() + (first + row) * weight.row_stride,
                              scales.as<f16>() + (first + row) * scales.row_stride, in, widened + row * in);
          return;
        }
        cpu::widened_rows(kernels_, weight, first + begin, end - begin, widened + begin * in);
      });
      cpu::multiply_matrices(kernels_, {rows, count, in, input.as<float>(), input.row_stride, false, widened, in, true,
                                        output.as<float>() + first, output.row_stride});
      epilogue(0, rows, first, count);
    }
    return;
  }
  const int64_t block = std::max<int64_t>(256, kEpilogueBytes / (4 * out));
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t count = std::min(block, rows - first);
    cpu::multiply_matrices(kernels_, {count, out, in, input.as<float>() + first * input.row_stride, input.row_stride,
                                      false, weight.as<float>(), weight.row_stride, true,
                                      output.as<float>() + first * output.row_stride, output.row_stride});
    epilogue(first, count, 0, out);
  }
}

void CpuModelOperators::linear_backward(const LinearBackward& arguments) {
  const ConstTensorView gradient = arguments.output_gradient;
  const ConstTensorView weight = arguments.weight;
  const int64_t rows = gradient.rows;
  const int64_t in = weight.columns;
  const int64_t out = weight.rows;
  if (const TensorView bias_gradient = arguments.bias_gradient) {
    parallel_ranges(out, static_cast<double>(rows) * 0.1, [&](int64_t begin, int64_t end) {
      for (int64_t row = 0; row < rows; ++row)
        kernels_.add(gradient.as<float>() + row * gradient.row_stride + begin, end - begin,
                     bias_gradient.as<float>() + begin);
    });
  }
  if (const TensorView weight_gradient = arguments.weight_gradient) {
    cpu::multiply_matrices(
        kernels_, {out, in, rows, gradient.as<float>(), gradient.row_stride, true, arguments.input.as<float>(),
                   arguments.input.row_stride, false, weight_gradient.as<float>(), weight_gradient.row_stride, true});
  }
  const TensorView input_gradient = arguments.input_gradient;
  if (!input_gradient) return;
  ConstTensorView pre_activation;
  if (is_gelu(arguments.input_activation)) {
    CBTM_ASSERT(arguments.input_saved, "the derivative of a gelu is taken where it was");
    pre_activation = saved_values(arguments.input_saved, DType::f32);
  }
  const int64_t block = std::max<int64_t>(256, kEpilogueBytes / (4 * in));
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t count = std::min(block, rows - first);
    cpu::multiply_matrices(kernels_, {count, in, out, gradient.as<float>() + first * gradient.row_stride,
                                      gradient.row_stride, false, weight.as<float>(), weight.row_stride, false,
                                      input_gradient.as<float>() + first * input_gradient.row_stride,
                                      input_gradient.row_stride, arguments.accumulate_input_gradient});
    if (arguments.input_activation == Activation::none) continue;
    parallel_ranges(count, static_cast<double>(in) * 0.2, [&](int64_t begin, int64_t end) {
      for (int64_t row = first + begin; row < first + end; ++row) {
        float* values = input_gradient.as<float>() + row * input_gradient.row_stride;
        if (arguments.input_activation == Activation::relu) {
          kernels_.relu_backward(values, arguments.input.as<float>() + row * arguments.input.row_stride, in);
        } else {
          const float* before = pre_activation.as<float>() + row * pre_activation.row_stride;
          cpu::apply_gelu_derivative(arguments.input_activation, before, values, in);
        }
      }
    });
  }
}

}  // namespace cbtm
