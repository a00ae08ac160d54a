#include "linear.h"

#include <algorithm>

#include "activation.h"
#include "convert.h"
#include "decode_linear.h"
#include "dequantise.h"
#include "dispatch.h"
#include "matmul.h"
#include "quantised_linear.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

/// Consecutive pieces of the operator's scratch memory.
class Scratch {
 public:
  Scratch(Context& context, int64_t bytes)
      : next_(bytes > 0 ? static_cast<char*>(context.workspace(bytes)) : nullptr) {}
  TensorView take(DType dtype, int64_t rows, int64_t columns) {
    const TensorView view{next_, dtype, rows, columns};
    next_ += bytes_of(dtype, rows, columns);
    return view;
  }
  static int64_t bytes_of(DType dtype, int64_t rows, int64_t columns) {
    return round_up(rows * columns * dtype_bytes(dtype), 256);
  }

 private:
  char* next_;
};

bool widens_weight(const LinearForward& arguments) { return arguments.weight.dtype != arguments.input.dtype; }
bool converts_bias(const LinearForward& arguments) {
  return arguments.bias.size() > 0 && arguments.bias.dtype != arguments.output.dtype;
}

/// A linear layer of any number of rows whose bits do not depend on each other: by the kernels of decoding, as many
/// rows as they take at a time.
void decode_rows(Context& context, const LinearForward& arguments) {
  CBTM_ASSERT(!arguments.saved, "a backward pass does not follow");
  LinearForward part = arguments;
  if (is_gelu(arguments.activation)) part.activation = Activation::none;
  const int64_t rows_max = decode_linear_rows_max(arguments.input.dtype);
  for (int64_t row = 0; row < arguments.input.rows; row += rows_max) {
    const int64_t rows = std::min(rows_max, arguments.input.rows - row);
    part.input = arguments.input.row_range(row, rows);
    part.output = arguments.output.row_range(row, rows);
    decode_linear(context, part);
  }
  if (is_gelu(arguments.activation)) gelu_forward(context, arguments.activation, arguments.output, arguments.output);
}

/// Whether int8 or int4 weights are read as they are by the kernel for more rows than decoding has.
bool weights_stay_narrow(const Context& context, const LinearForward& arguments) {
  return arguments.row_sums != RowSums::decode && quantised_linear_applies(arguments, context.compute_capability);
}

}  // namespace

int64_t saved_activation_columns(Activation activation, DType dtype, int64_t columns) {
  switch (activation) {
    case Activation::none: return 0;
    case Activation::relu: return relu_mask_columns(columns);
    case Activation::gelu:
    case Activation::gelu_tanh: return columns * dtype_bytes(dtype);
  }
  return 0;
}

int64_t scratch_bytes(const Context& context, const LinearForward& arguments) {
  const auto& [input, weight, bias, activation, output, saved, scales, row_sums] = arguments;
  if (input.rows > 0 && weights_stay_narrow(context, arguments)) return 0;
  return (widens_weight(arguments) ? Scratch::bytes_of(input.dtype, weight.rows, input.columns) : 0) +
         (converts_bias(arguments) ? Scratch::bytes_of(output.dtype, 1, bias.columns) : 0);
}

int64_t scratch_bytes(const Context& context, const LinearBackward& arguments) {
  return arguments.bias_gradient.size() > 0 ? column_sums_scratch_bytes(context, arguments.output_gradient) : 0;
}

// output = activation(input weightᵀ + bias): one product with bias, ReLU and its mask in the epilogue; a GELU (the
// error function's, which cuBLASLt does not have) is a kernel after it. Weights narrower than the input are widened
// first, a bias of another type than the output is converted first: that is for checking; training and inference hold
// them alike.
void linear_forward(Context& context, const LinearForward& arguments) {
  const auto& [input, weight, bias, activation, output, saved, scales, row_sums] = arguments;
  CBTM_ASSERT(output.columns == weight.rows && output.rows == input.rows, "shapes of a linear layer agree");
  CBTM_ASSERT(arguments.weights_fit(), "weights fit the input, and their scales");
  if (input.rows == 0) return;
  if (row_sums == RowSums::decode) return decode_rows(context, arguments);
  if (row_sums == RowSums::any && !saved && decode_linear_applies(arguments, context.compute_capability))
    return decode_linear(context, arguments);
  if (weights_stay_narrow(context, arguments)) {
    LinearForward narrow = arguments;
    if (is_gelu(activation)) narrow.activation = Activation::none;
    quantised_linear(context, narrow);
    if (is_gelu(activation)) gelu_forward(context, activation, output, output);
    return;
  }
  const bool widen = widens_weight(arguments);
  const bool convert_bias = converts_bias(arguments);
  Scratch scratch(context, scratch_bytes(context, arguments));
  MatmulArguments product;
  product.a = input;
  product.b = weight;
  product.transpose_b = true;
  product.c = is_gelu(activation) && saved ? saved_values(saved, output.dtype) : output;
  product.bias = bias;
  if (widen) {
    CBTM_ASSERT(input.dtype == DType::f32 || scales, "weights are of the input's type, or narrower than float32");
    const TensorView wide = scratch.take(input.dtype, weight.rows, input.columns);
    if (scales)
      dequantise(context, weight, scales, wide);
    else
      convert(context, wide, weight);
    product.b = wide;
  }
  if (convert_bias) {
    const TensorView converted = scratch.take(output.dtype, 1, bias.columns);
    convert(context, converted, bias);
    product.bias = converted;
  }
  product.relu = activation == Activation::relu;
  if (product.relu) product.relu_mask = saved;
  matmul(context, product);
  if (is_gelu(activation)) gelu_forward(context, activation, product.c, output);
}

// Weight gradient with the bias gradient beside it in one product; input gradient with the ReLU's mask in the epilogue.
void linear_backward(Context& context, const LinearBackward& arguments, BiasGradients& bias_gradients) {
  const ConstTensorView gradient = arguments.output_gradient;
  if (gradient.rows == 0) {
    if (arguments.input_gradient) CBTM_ASSERT(arguments.input_gradient.rows == 0, "a gradient a row");
    return;
  }
  const TensorView bias_gradient =
      arguments.bias_gradient ? bias_gradients.hold(arguments.bias_gradient) : TensorView();
  if (arguments.weight_gradient) {
    MatmulArguments product;
    product.a = gradient;
    product.transpose_a = true;
    product.b = arguments.input;
    product.c = arguments.weight_gradient;
    product.beta = 1;
    product.a_sums = bias_gradient;
    matmul(context, product);
  } else if (bias_gradient) {
    column_sums(context, gradient, bias_gradient);
  }

  if (!arguments.input_gradient) return;
  MatmulArguments product;
  product.a = gradient;
  product.b = arguments.weight;
  product.c = arguments.input_gradient;
  product.beta = arguments.accumulate_input_gradient ? 1 : 0;
  switch (arguments.input_activation) {
    case Activation::none: return matmul(context, product);
    case Activation::relu:
      product.relu_derivative_mask = arguments.input_saved;
      matmul(context, product);
      if (arguments.input_saved) return;
      return relu_backward(context, arguments.input, arguments.input_gradient);
    case Activation::gelu:
    case Activation::gelu_tanh:
      CBTM_ASSERT(arguments.input_saved, "the derivative of a gelu is taken where it was");
      matmul(context, product);
      return gelu_backward(context, arguments.input_activation,
                           saved_values(arguments.input_saved, arguments.input_gradient.dtype),
                           arguments.input_gradient);
  }
}

}  // namespace cbtm::cuda
