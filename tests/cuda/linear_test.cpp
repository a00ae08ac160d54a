// Linear layers of the CUDA device against those of the CPU device, which gets the same values, rounded to the type, in
// float32.

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"
#include "tests/cuda/refused_products.h"

namespace cbtm {
namespace {

struct Sizes {
  int64_t rows, in, out;
  bool aligned = false;  ///< every row begins at a multiple of 16 bytes, as those of models do

  int64_t stride(int64_t columns, int64_t padding = 0) const {
    return aligned ? round_up(columns, 8) + (padding > 0 ? 8 : 0) : columns + padding;
  }
  int64_t first(int64_t column) const { return aligned ? round_up(column, 8) : column; }
};
constexpr Sizes kSizes[] = {{1, 1, 1}, {3, 5, 1}, {9, 8, 24}, {33, 40, 17}, {20, 129, 130}, {37, 136, 67, true}};
constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};

/// Both devices add `terms` products in float32, in whatever order, of magnitude at most `magnitude` in sum, and round
/// what they write once (CPU: to float32).
std::vector<double> tolerance(const std::vector<float>& want, DType dtype, int64_t terms, double magnitude) {
  std::vector<double> result;
  for (const float value : want)
    result.push_back(2 * static_cast<double>(terms + 4) * 0x1p-24 * magnitude +
                     unit_roundoff(dtype) * std::abs(static_cast<double>(value)) +
                     (dtype == DType::f16 ? 0x1p-24 : 1e-30));  // half the least positive float16
  return result;
}

TensorView as_saved(TensorView values) {
  const int64_t item = dtype_bytes(values.dtype);
  return {values.data, DType::u8, values.rows, values.columns * item, values.row_stride * item};
}

}  // namespace

TEST_CASE("linear forward equals the CPU's, with bias, ReLU and GELU, into slices of larger rows") {
  for (const Sizes& s : kSizes)
    for (const DType dtype : kTypes)
      for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh})
        for (const bool with_bias : {false, true}) {
          CAPTURE(s.rows);
          CAPTURE(s.in);
          CAPTURE(s.out);
          CAPTURE(dtype_name(dtype));
          CAPTURE(static_cast<int>(activation));
          CAPTURE(with_bias);
          Matrix input(dtype, s.rows, s.in, s.stride(s.in, 11), s.first(3));
          Matrix weight(dtype, s.out, s.in, s.stride(s.in), 0), bias(dtype, 1, s.out, s.out, 0);
          Matrix output(dtype, s.rows, s.out, s.stride(s.out, 9), 8), pre(dtype, s.rows, s.out, s.stride(s.out), 0);
          input.randomize(1), weight.randomize(2), bias.randomize(3), output.randomize(4), pre.randomize(5);
          LinearForward arguments;
          arguments.activation = activation;
          const auto run = [&](Device& device, bool cuda) {
            const auto on = [&](Matrix& matrix) { return cuda ? matrix.cuda() : matrix.cpu(); };
            arguments.input = on(input);
            arguments.weight = on(weight);
            arguments.bias = with_bias ? ConstTensorView(on(bias)) : ConstTensorView();
            arguments.output = on(output);
            arguments.saved = is_gelu(activation) ? as_saved(on(pre)) : TensorView();
            device.model_operators().linear_forward(arguments);
          };
          run(cuda_device(), true);
          bool outside_kept = true;
          const std::vector<float> got = output.from_cuda(&outside_kept), got_pre = pre.from_cuda();
          CHECK(outside_kept);
          run(cpu_device(), false);
          // |input|, |weight|, |bias| <= 1; the GELU is taken of the rounded pre-activation and has a slope below 1.13.
          const std::vector<float> want = output.from_cpu(), want_pre = pre.from_cpu();
          std::vector<double> bound = tolerance(want, dtype, s.in, static_cast<double>(s.in) + 1);
          // The value before the bias is rounded too; it is larger by 1 at most.
          const double again = with_bias && products_are_refused() ? 1.01 * unit_roundoff(dtype) : 0;
          for (size_t i = 0; i < bound.size(); ++i) bound[i] += again * (std::abs(static_cast<double>(want[i])) + 1);
          if (is_gelu(activation)) {
            std::vector<double> pre_bound = tolerance(want_pre, dtype, s.in, static_cast<double>(s.in) + 1);
            for (size_t i = 0; i < pre_bound.size(); ++i)
              pre_bound[i] += again * (std::abs(static_cast<double>(want_pre[i])) + 1);
            CHECK(error_in_tolerances(got_pre, want_pre, pre_bound) <= 1);
            for (size_t i = 0; i < bound.size(); ++i)
              bound[i] += 1.13 * pre_bound[i] + 8 * 0x1p-24 * std::abs(static_cast<double>(want_pre[i]));
          }
          CHECK(error_in_tolerances(got, want, bound) <= 1);
        }
}

TEST_CASE("linear backward equals the CPU's, with and without the ReLU's mask; gradients of parameters accumulate") {
  for (const Sizes& s : kSizes)
    for (const DType dtype : kTypes)
      for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh})
        for (const bool masked : {false, true}) {
          if (masked && activation != Activation::relu) continue;
          const bool accumulate = activation == Activation::none;
          CAPTURE(s.rows);
          CAPTURE(s.in);
          CAPTURE(s.out);
          CAPTURE(dtype_name(dtype));
          CAPTURE(static_cast<int>(activation));
          CAPTURE(masked);
          // The layer below, whose output is our input, makes the mask.
          Matrix lower(dtype, s.rows, 4, s.stride(4), 0), lower_weight(dtype, s.in, 4, s.stride(4), 0);
          Matrix pre(dtype, s.rows, s.in, s.stride(s.in), 0), input(dtype, s.rows, s.in, s.stride(s.in), 0);
          Matrix weight(dtype, s.out, s.in, s.stride(s.in), 0), bias_gradient(DType::f32, 1, s.out, s.out, 0);
          Matrix gradient(dtype, s.rows, s.out, s.stride(s.out, 6), s.first(5));
          Matrix input_gradient(dtype, s.rows, s.in, s.stride(s.in, 1), 0);
          Matrix weight_gradient(DType::f32, s.out, s.in, s.stride(s.in), 0);
          lower.randomize(1), lower_weight.randomize(2), pre.randomize(9, 3), input.randomize(3);
          weight.randomize(4), gradient.randomize(5), input_gradient.randomize(6);
          weight_gradient.randomize(7), bias_gradient.randomize(8);
          const int64_t mask_bytes =
              cuda_device().model_operators().saved_activation_columns(Activation::relu, dtype, s.in);
          const DeviceBuffer mask = cuda_device().allocate(s.rows * mask_bytes, "a test's mask");
          LinearForward forward;
          forward.activation = Activation::relu;
          LinearBackward arguments;
          arguments.accumulate_input_gradient = accumulate;
          arguments.input_activation = activation;
          const auto run = [&](Device& device, bool cuda) {
            const auto on = [&](Matrix& matrix) { return cuda ? matrix.cuda() : matrix.cpu(); };
            if (activation == Activation::relu && cuda) {
              forward.input = on(lower);
              forward.weight = on(lower_weight);
              forward.output = on(input);
              forward.saved = mask.view(DType::u8, s.rows, mask_bytes);
              device.model_operators().linear_forward(forward);
              const std::vector<float> active = input.from_cuda();  // the CPU gets the same
              for (int64_t i = 0; i < s.rows * s.in; ++i) input.at(i / s.in, i % s.in) = active[static_cast<size_t>(i)];
              if (masked) arguments.input_saved = forward.saved;
            }
            arguments.input = on(input);
            arguments.weight = on(weight);
            arguments.output_gradient = on(gradient);
            arguments.input_gradient = on(input_gradient);
            if (is_gelu(activation)) arguments.input_saved = as_saved(on(pre));
            arguments.weight_gradient = on(weight_gradient);
            arguments.bias_gradient = on(bias_gradient);
            device.model_operators().linear_backward(arguments);
            device.model_operators().finish_backward();
          };
          run(cuda_device(), true);
          bool outside_kept = true;
          const std::vector<float> got_input = input_gradient.from_cuda(&outside_kept);
          CHECK(outside_kept);
          const std::vector<float> got_weight = weight_gradient.from_cuda(), got_bias = bias_gradient.from_cuda();
          const std::vector<float> before = input_gradient.from_cpu();
          run(cpu_device(), false);
          const std::vector<float> want_input = input_gradient.from_cpu();
          // The product is rounded to the type before a GELU's derivative (at most 1.13) multiplies it.
          std::vector<double> bound = tolerance(want_input, dtype, s.out, static_cast<double>(s.out) + 1);
          if (is_gelu(activation))
            for (double& value : bound)
              value = 1.13 * (value + unit_roundoff(dtype) * static_cast<double>(s.out)) +
                      8 * 0x1p-24 * static_cast<double>(s.out);
          CHECK(error_in_tolerances(got_input, want_input, bound) <= 1);
          const std::vector<float> want_weight = weight_gradient.from_cpu(), want_bias = bias_gradient.from_cpu();
          const double largest_input = 4;  // of the ReLU: four products of at most 1
          CHECK(error_in_tolerances(
                    got_weight, want_weight,
                    tolerance(want_weight, DType::f32, s.rows, largest_input * static_cast<double>(s.rows) + 1)) <= 1);
          CHECK(error_in_tolerances(got_bias, want_bias,
                                    tolerance(want_bias, DType::f32, s.rows, static_cast<double>(s.rows) + 1)) <= 1);
        }
}

TEST_CASE("bias gradients of a pass are added at its end, those of a pass that was given up never") {
  Device& device = cuda_device();
  ModelOperators& operators = device.model_operators();
  Matrix input(DType::bf16, 20, 24, 24, 0), weight(DType::bf16, 130, 24, 24, 0), gradient(DType::bf16, 20, 130, 130, 0);
  Matrix weight_gradient(DType::f32, 130, 24, 24, 0);
  input.randomize(1), weight.randomize(2), gradient.randomize(3), weight_gradient.randomize(4);
  constexpr int kLayers = 5;
  Matrix biases(DType::f32, kLayers, 130, 131, 1);
  const auto pass = [&] {
    for (int layer = 0; layer < kLayers; ++layer)
      operators.linear_backward({.input = input.cuda(),
                                 .weight = weight.cuda(),
                                 .output_gradient = gradient.cuda(),
                                 .input_gradient = {},
                                 .weight_gradient = weight_gradient.cuda(),
                                 .bias_gradient = biases.cuda().row_range(layer, 1)});
  };
  const auto after = [&](const auto& calls) {
    biases.randomize(5);
    calls();
    bool outside_kept = true;
    const std::vector<float> values = biases.from_cuda(&outside_kept);
    CHECK(outside_kept);
    return values;
  };
  const std::vector<float> before = after([] {});
  const std::vector<float> once = after([&] { pass(), operators.finish_backward(); });
  for (int64_t i = 0; i < kLayers * 130; ++i) CHECK(once[static_cast<size_t>(i)] != before[static_cast<size_t>(i)]);
  CHECK(after([&] { operators.finish_backward(); }) == before);  // nothing is held any more
  CHECK(after([&] { pass(), operators.finish_backward(); }) == once);
  // A recording that cannot be made is given up in the middle of the pass.
  const std::vector<int32_t> offsets = {0, 7, 20};
  CHECK(after([&] {
          CHECK(device.record([&] {
            pass();
            operators.attention_forward(
                {.shape = {.query_offsets = offsets, .key_offsets = offsets, .num_heads = 3, .head_dim = 8},
                 .query = input.cuda(),
                 .key = input.cuda(),
                 .value = input.cuda(),
                 .output = input.cuda(),
                 .log_sum_exp = {}});
          }) == nullptr);
          operators.finish_backward();
        }) == before);
}

TEST_CASE("bias gradients of a pass that an error ended are forgotten by the next training, with more memory or less") {
  Device& device = cuda_device();
  ModelOperators& operators = device.model_operators();
  Matrix input(DType::bf16, 20, 24, 24, 0), weight(DType::bf16, 130, 24, 24, 0), gradient(DType::bf16, 20, 130, 130, 0);
  Matrix weight_gradient(DType::f32, 130, 24, 24, 0), bias(DType::f32, 1, 130, 130, 0);
  input.randomize(1), weight.randomize(2), gradient.randomize(3), weight_gradient.randomize(4);
  for (const int64_t more_bytes : {1 << 20, 1 << 22, 0}) {
    bias.randomize(5);
    const LinearBackward backward{.input = input.cuda(),
                                  .weight = weight.cuda(),
                                  .output_gradient = gradient.cuda(),
                                  .input_gradient = {},
                                  .weight_gradient = weight_gradient.cuda(),
                                  .bias_gradient = bias.cuda()};
    operators.linear_backward(backward);
    operators.reserve_scratch(operators.scratch_bytes(backward), operators.held_bytes(backward) + more_bytes);
    const std::vector<float> before = bias.from_cuda();
    operators.finish_backward();
    CHECK(bias.from_cuda() == before);
  }
}

TEST_CASE("no rows: nothing is written") {
  Matrix input(DType::bf16, 0, 8, 8, 0), weight(DType::bf16, 8, 8, 8, 0), output(DType::bf16, 0, 8, 8, 0);
  Matrix weight_gradient(DType::f32, 8, 8, 8, 0);
  weight.randomize(1), weight_gradient.randomize(2);
  LinearForward forward;
  forward.input = input.cuda();
  forward.weight = weight.cuda();
  forward.output = output.cuda();
  cuda_device().model_operators().linear_forward(forward);
  LinearBackward backward;
  backward.input = input.cuda();
  backward.weight = weight.cuda();
  backward.output_gradient = output.cuda();
  backward.weight_gradient = weight_gradient.cuda();
  cuda_device().model_operators().linear_backward(backward);
  CHECK(weight_gradient.from_cuda() == weight_gradient.from_cpu());
}

TEST_CASE("a linear layer's gradients are the same bits twice") {
  Matrix input(DType::bf16, 300, 64, 64, 0), weight(DType::bf16, 96, 64, 64, 0), gradient(DType::bf16, 300, 96, 96, 0);
  input.randomize(1), weight.randomize(2), gradient.randomize(3);
  std::vector<float> results[2];
  for (std::vector<float>& result : results) {
    Matrix weight_gradient(DType::f32, 96, 64, 64, 0), bias_gradient(DType::f32, 1, 96, 96, 0);
    weight_gradient.randomize(4), bias_gradient.randomize(5);
    LinearBackward arguments;
    arguments.input = input.cuda();
    arguments.weight = weight.cuda();
    arguments.output_gradient = gradient.cuda();
    arguments.weight_gradient = weight_gradient.cuda();
    arguments.bias_gradient = bias_gradient.cuda();
    cuda_device().model_operators().linear_backward(arguments);
    cuda_device().model_operators().finish_backward();
    result = weight_gradient.from_cuda();
    const std::vector<float> bias = bias_gradient.from_cuda();
    result.insert(result.end(), bias.begin(), bias.end());
  }
  CHECK(results[0] == results[1]);
}

}  // namespace cbtm
