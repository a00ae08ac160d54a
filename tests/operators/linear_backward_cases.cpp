#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/activation_reference.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct BackwardSettings {
  int64_t rows, in, out;
  DType dtype = DType::f32;
  Activation activation = Activation::none;
  bool masked = false;  ///< a ReLU whose forward pass has saved what it likes
  bool input_gradient = true, parameter_gradients = true;
};

std::string name_of(const BackwardSettings& s) {
  return fmt::format("linear_backward {} {}x{}x{} {}{}{}{}", dtype_name(s.dtype), s.rows, s.in, s.out,
                     activation_name(s.activation), s.masked ? " masked" : "",
                     s.input_gradient ? "" : " parameters only", s.parameter_gradients ? "" : " input only");
}

TensorView as_saved(TensorView values) {
  const int64_t item = dtype_bytes(values.dtype);
  return {values.data, DType::u8, values.rows, values.columns * item, values.row_stride * item};
}

OperatorCase make_linear_backward(const BackwardSettings& s) {
  OperatorCase one{.computed = s.dtype};
  constexpr int64_t kLower = 4;
  // The layer below, whose output is our input. For the mask its sums must not depend on rounding: quarters, so that
  // every sum of 4 products is exact in every type.
  std::vector<double> before = uniform_values(s.rows * s.in, 3, 3), lower_values, lower_weights;
  Operand lower, lower_weight, input;
  if (s.masked) {
    lower_values = uniform_ids(s.rows * kLower, 9, 1);
    lower_weights = uniform_ids(s.in * kLower, 9, 2);
    for (std::vector<double>* values : {&lower_values, &lower_weights})
      for (double& value : *values) value = (value - 4) / 4;
    lower = one.input("lower", s.dtype, s.rows, kLower, lower_values);
    lower_weight = one.input("lower_weight", s.dtype, s.in, kLower, lower_weights);
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t i = 0; i < s.in; ++i) {
        double sum = 0;
        for (int64_t l = 0; l < kLower; ++l)
          sum += lower_values[static_cast<size_t>(r * kLower + l)] * lower_weights[static_cast<size_t>(i * kLower + l)];
        before[static_cast<size_t>(r * s.in + i)] = sum;
      }
  }
  before = rounded_to(before, s.dtype);
  std::vector<double> active = before;
  for (double& value : active) value = activated(s.activation, value);
  input = s.masked ? one.output("input", s.dtype, s.rows, s.in) : one.input("input", s.dtype, s.rows, s.in, active);
  active = rounded_to(active, s.dtype);
  const Operand pre_activation =
      is_gelu(s.activation) ? one.input("pre_activation", s.dtype, s.rows, s.in, before) : Operand();
  const Operand weight = one.input("weight", s.dtype, s.out, s.in, uniform_values(s.out * s.in, 4));
  const Operand gradient =
      one.input("output_gradient", s.dtype, s.rows, s.out, uniform_values(s.rows * s.out, 5), {6, 5});
  const bool accumulate = s.activation == Activation::none;
  Operand input_gradient, weight_gradient, bias_gradient;
  if (s.input_gradient)
    input_gradient = accumulate ? one.updated("input_gradient", s.dtype, s.rows, s.in, uniform_values(s.rows * s.in, 6))
                                : one.output("input_gradient", s.dtype, s.rows, s.in, {1, 0});
  if (s.parameter_gradients) {
    weight_gradient = one.updated("weight_gradient", DType::f32, s.out, s.in, uniform_values(s.out * s.in, 7));
    bias_gradient = one.updated("bias_gradient", DType::f32, 1, s.out, uniform_values(s.out, 8));
  }
  one.flops = 2.0 * static_cast<double>(s.rows * s.in * s.out) * (s.input_gradient + s.parameter_gradients);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    ModelOperators& operators = device.model_operators();
    TensorView saved = is_gelu(s.activation) ? as_saved(on[pre_activation]) : TensorView();
    if (s.masked) {
      saved = on.opaque(s.rows, operators.saved_activation_columns(Activation::relu, s.dtype, s.in));
      operators.linear_forward({.input = on[lower],
                                .weight = on[lower_weight],
                                .bias = {},
                                .activation = Activation::relu,
                                .output = on[input],
                                .saved = saved});
    }
    operators.linear_backward({.input = on[input],
                               .weight = on[weight],
                               .output_gradient = on[gradient],
                               .input_gradient = on[input_gradient],
                               .accumulate_input_gradient = accumulate,
                               .input_activation = s.activation,
                               .input_saved = saved,
                               .weight_gradient = on[weight_gradient],
                               .bias_gradient = on[bias_gradient]});
    operators.finish_backward();
  };
  const auto x = [=, active = active](int64_t r, int64_t i) { return active[static_cast<size_t>(r * s.in + i)]; };
  one.reference = [=](Expectation& e) {
    if (s.masked)
      for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t i = 0; i < s.in; ++i) e.expect(input, r, i, x(r, i));
    for (int64_t r = 0; r < s.rows && s.input_gradient; ++r)
      for (int64_t i = 0; i < s.in; ++i) {
        Sum sum(s.dtype);
        if (accumulate) sum.add(e[input_gradient].at(r, i));
        for (int64_t o = 0; o < s.out; ++o) sum.add_product(e[gradient].at(r, o), e[weight].at(o, i));
        Bounded product = sum.result();
        if (s.activation == Activation::relu && !(x(r, i) > 0)) product = 0.0;
        // The product is stored before a kernel of its own multiplies it by the derivative.
        if (is_gelu(s.activation))
          product = stored(product, s.dtype) *
                    gelu_derivative(s.activation, Bounded(before[static_cast<size_t>(r * s.in + i)]));
        e.expect(input_gradient, r, i, product);
      }
    for (int64_t o = 0; o < s.out && s.parameter_gradients; ++o) {
      for (int64_t i = 0; i < s.in; ++i) {
        Sum sum(s.dtype);
        sum.add(e[weight_gradient].at(o, i));
        for (int64_t r = 0; r < s.rows; ++r) sum.add_product(e[gradient].at(r, o), x(r, i));
        e.expect(weight_gradient, o, i, sum.result());
      }
      Sum sum(s.dtype);
      sum.add(e[bias_gradient].at(0, o));
      for (int64_t r = 0; r < s.rows; ++r) sum.add(e[gradient].at(r, o));
      e.expect(bias_gradient, 0, o, sum.result());
    }
  };

  // Σ output_gradient * output as a function of the input before its activation, the weights or the biases.
  const std::vector<double> g = one.matrix(gradient).values, w = one.matrix(weight).values;
  const auto objective = [=](const std::vector<double>& inputs, const std::vector<double>& weights,
                             const std::vector<double>& biases) {
    Objective sum;
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t o = 0; o < s.out; ++o) {
        double output = biases[static_cast<size_t>(o)], size = std::abs(output);
        for (int64_t i = 0; i < s.in; ++i) {
          const double term = inputs[static_cast<size_t>(r * s.in + i)] * weights[static_cast<size_t>(o * s.in + i)];
          output += term;
          size += std::abs(term);
        }
        sum.value += g[static_cast<size_t>(r * s.out + o)] * output;
        sum.size += std::abs(g[static_cast<size_t>(r * s.out + o)]) * size;
      }
    return sum;
  };
  const std::vector<double> no_biases(static_cast<size_t>(s.out));
  // The sums that make a mask are 0 in places, where a ReLU has no derivative.
  if (s.rows > 100) return one;  // a large sum says no more
  if (s.input_gradient && !s.masked)
    one.gradients.push_back({input_gradient, before, [=](const std::vector<double>& point) {
                               std::vector<double> inputs = point;
                               for (double& value : inputs) value = activated(s.activation, value);
                               return objective(inputs, w, no_biases);
                             }});
  if (s.parameter_gradients) {
    one.gradients.push_back(
        {weight_gradient, w, [=](const std::vector<double>& point) { return objective(active, point, no_biases); }});
    one.gradients.push_back(
        {bias_gradient, no_biases, [=](const std::vector<double>& point) { return objective(active, w, point); }});
  }
  return one;
}

}  // namespace

CaseList linear_backward_cases() {
  std::vector<BackwardSettings> small;
  for (const auto& [rows, in, out] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {3, 5, 1}, {9, 8, 24}, {33, 40, 17}, {20, 129, 130}})
    for (const DType dtype : kComputedTypes)
      for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh})
        for (const bool masked : {false, true})
          if (!masked || activation == Activation::relu)
            small.push_back(
                {.rows = rows, .in = in, .out = out, .dtype = dtype, .activation = activation, .masked = masked});
  for (const DType dtype : kComputedTypes) {
    small.push_back({.rows = 20, .in = 24, .out = 40, .dtype = dtype, .parameter_gradients = false});
    small.push_back({.rows = 20, .in = 24, .out = 40, .dtype = dtype, .input_gradient = false});
    small.push_back({.rows = 300, .in = 64, .out = 96, .dtype = dtype});
  }
  CaseList cases;
  for (const BackwardSettings& s : small) cases.push_back({name_of(s), false, [s] { return make_linear_backward(s); }});
  for (const DType dtype : kComputedTypes) {
    const BackwardSettings out = {.rows = kTrainingRows,
                                  .in = kFeedForward,
                                  .out = kHidden,
                                  .dtype = dtype,
                                  .activation = Activation::relu,
                                  .masked = dtype != DType::f32};
    const BackwardSettings in = {.rows = kTrainingRows, .in = kHidden, .out = kFeedForward, .dtype = dtype};
    for (const BackwardSettings& s : {out, in})
      cases.push_back({name_of(s), true, [s] { return make_linear_backward(s); }});
  }
  return cases;
}

}  // namespace cbtm
