#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/activation_reference.h"
#include "tests/operators/cases.h"
#include "tests/operators/weights.h"

namespace cbtm {
namespace {

/// Rows of the experts, one number each; `spare` rows behind them are not used.
struct ExpertSettings {
  std::vector<int64_t> rows;
  int64_t spare, in, out;
  DType input = DType::f32, weight = DType::f32;
  Activation activation = Activation::none;
  bool bias = true;
  Placement placement = {};
  RowSums row_sums = RowSums::any;

  int64_t experts() const { return static_cast<int64_t>(rows.size()); }
  int64_t used() const {
    int64_t sum = 0;
    for (const int64_t count : rows) sum += count;
    return sum;
  }
  int64_t all() const { return used() + spare; }
  std::vector<double> offsets() const {
    std::vector<double> offsets = {0};
    for (const int64_t count : rows) offsets.push_back(offsets.back() + static_cast<double>(count));
    return offsets;
  }
  int64_t expert_of(int64_t row) const {
    int64_t expert = 0;
    while (row >= rows[static_cast<size_t>(expert)]) row -= rows[static_cast<size_t>(expert++)];
    return expert;
  }
};

std::string name_of(const char* what, const ExpertSettings& s) {
  return fmt::format("{} {}*{} {} rows {}x{} of {} {}{}{}{}", what, dtype_name(s.input), weight_type_name(s.weight),
                     s.used(), s.in, s.out, s.experts(), activation_name(s.activation), s.bias ? " bias" : "",
                     s.placement.gap > 0 ? " strided" : "",
                     s.row_sums == RowSums::decode   ? " decode"
                     : s.row_sums == RowSums::prompt ? " prompt"
                                                     : "");
}

TensorView as_saved(TensorView values) {
  const int64_t item = dtype_bytes(values.dtype);
  return {values.data, DType::u8, values.rows, values.columns * item, values.row_stride * item};
}

OperatorCase make_forward(const ExpertSettings& s) {
  OperatorCase one{.computed = s.input};
  const Operand input = one.input("input", s.input, s.all(), s.in, uniform_values(s.all() * s.in, 1), s.placement);
  const Operand offsets = one.input("offsets", DType::i32, 1, s.experts() + 1, s.offsets());
  const WeightOperands weight = add_weights(one, s.weight, s.experts() * s.out, s.in, 2);
  const Operand bias =
      s.bias ? one.input("bias", s.input, 1, s.experts() * s.out, uniform_values(s.experts() * s.out, 3)) : Operand();
  const std::vector<double> before = uniform_values(s.all() * s.out, 4);
  const Operand output = one.updated("output", s.input, s.all(), s.out, before, s.placement);
  const Operand saved = is_gelu(s.activation) ? one.updated("saved", s.input, s.all(), s.out, before) : Operand();
  one.flops = 2.0 * static_cast<double>(s.used() * s.in * s.out);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().expert_linear_forward({.input = on[input],
                                                    .offsets = on[offsets],
                                                    .weight = on[weight.matrix],
                                                    .bias = on[bias],
                                                    .activation = s.activation,
                                                    .output = on[output],
                                                    .saved = saved ? as_saved(on[saved]) : TensorView(),
                                                    .weight_scales = on[weight.scales],
                                                    .row_sums = s.row_sums});
  };
  one.reference = [=](Expectation& e) {
    const bool quantised = static_cast<bool>(weight.scales);
    for (int64_t r = 0; r < s.all(); ++r) {
      if (r >= s.used()) {  // not written
        for (int64_t o = 0; o < s.out; ++o) {
          e.expect_one_of(output, r, o, {e[output].at(r, o)});
          if (saved) e.expect_one_of(saved, r, o, {e[saved].at(r, o)});
        }
        continue;
      }
      const int64_t first = s.expert_of(r) * s.out;
      const std::vector<Bounded> activations = multiplied_activations(e[input], r, s.weight);
      for (int64_t o = 0; o < s.out; ++o) {
        Sum sum(s.weight == DType::bf16 ? DType::bf16 : s.input);
        for (int64_t i = 0; i < s.in; ++i) {
          Bounded w = weight.meant[static_cast<size_t>((first + o) * s.in + i)];
          if (quantised) w = stored(with_units(w, 3), s.input);  // code times scale may be rounded
          sum.add_product(activations[static_cast<size_t>(i)], w);
        }
        if (s.bias) sum.add(e[bias].at(0, first + o));
        Bounded value = sum.result();
        if (is_gelu(s.activation)) value = stored(value, s.input);
        if (saved) e.expect(saved, r, o, value);
        e.expect(output, r, o, activated(s.activation, value));
      }
    }
  };
  return one;
}

OperatorCase make_backward(const ExpertSettings& s) {
  OperatorCase one{.computed = s.input};
  const std::vector<double> before = rounded_to(uniform_values(s.all() * s.in, 1, 3), s.input);
  std::vector<double> active = before;
  for (double& value : active) value = activated(s.activation, value);
  active = rounded_to(active, s.input);
  const Operand input = one.input("input", s.input, s.all(), s.in, active, s.placement);
  const Operand saved = is_gelu(s.activation) ? one.input("saved", s.input, s.all(), s.in, before) : Operand();
  const Operand offsets = one.input("offsets", DType::i32, 1, s.experts() + 1, s.offsets());
  const Operand weight =
      one.input("weight", s.input, s.experts() * s.out, s.in, uniform_values(s.experts() * s.out * s.in, 2));
  const Operand gradient =
      one.input("output_gradient", s.input, s.all(), s.out, uniform_values(s.all() * s.out, 3), s.placement);
  const Operand input_gradient = s.spare == 0 ? one.output("input_gradient", s.input, s.all(), s.in, s.placement)
                                              : one.updated("input_gradient", s.input, s.all(), s.in,
                                                            uniform_values(s.all() * s.in, 4), s.placement);
  const Operand weight_gradient = one.updated("weight_gradient", DType::f32, s.experts() * s.out, s.in,
                                              uniform_values(s.experts() * s.out * s.in, 5));
  const Operand bias_gradient =
      s.bias ? one.updated("bias_gradient", DType::f32, 1, s.experts() * s.out, uniform_values(s.experts() * s.out, 6))
             : Operand();
  one.flops = 4.0 * static_cast<double>(s.used() * s.in * s.out);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().expert_linear_backward({.input = on[input],
                                                     .offsets = on[offsets],
                                                     .weight = on[weight],
                                                     .output_gradient = on[gradient],
                                                     .input_gradient = on[input_gradient],
                                                     .input_activation = s.activation,
                                                     .input_saved = saved ? as_saved(on[saved]) : TensorView(),
                                                     .weight_gradient = on[weight_gradient],
                                                     .bias_gradient = on[bias_gradient]});
    device.model_operators().finish_backward();
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.all(); ++r)
      for (int64_t i = 0; i < s.in; ++i) {
        if (r >= s.used()) {
          e.expect_one_of(input_gradient, r, i, {e[input_gradient].at(r, i)});
          continue;
        }
        Sum sum(s.input);
        for (int64_t o = 0; o < s.out; ++o)
          sum.add_product(e[gradient].at(r, o), e[weight].at(s.expert_of(r) * s.out + o, i));
        Bounded product = sum.result();
        const double x = before[static_cast<size_t>(r * s.in + i)];
        if (s.activation == Activation::relu && !(x > 0)) product = 0.0;
        if (is_gelu(s.activation)) product = stored(product, s.input) * gelu_derivative(s.activation, Bounded(x));
        e.expect(input_gradient, r, i, product);
      }
    for (int64_t w = 0; w < s.experts() * s.out; ++w) {
      std::vector<Sum> sums(static_cast<size_t>(s.in), Sum(s.input));
      Sum bias_sum(s.input);
      for (int64_t i = 0; i < s.in; ++i) sums[static_cast<size_t>(i)].add(e[weight_gradient].at(w, i));
      if (s.bias) bias_sum.add(e[bias_gradient].at(0, w));
      for (int64_t r = 0; r < s.used(); ++r) {
        if (s.expert_of(r) != w / s.out) continue;
        const double g = e[gradient].at(r, w % s.out);
        for (int64_t i = 0; i < s.in; ++i) sums[static_cast<size_t>(i)].add_product(g, e[input].at(r, i));
        bias_sum.add(g);
      }
      for (int64_t i = 0; i < s.in; ++i) e.expect(weight_gradient, w, i, sums[static_cast<size_t>(i)].result());
      if (s.bias) e.expect(bias_gradient, 0, w, bias_sum.result());
    }
  };

  // Σ output_gradient * output, of the inputs before their activation and of the weights.
  if (s.used() * s.in * s.out > 40'000 || s.spare > 0) return one;
  const std::vector<double> g = one.matrix(gradient).values, w = one.matrix(weight).values;
  const auto objective = [=](const std::vector<double>& inputs, const std::vector<double>& weights) {
    Objective sum;
    for (int64_t r = 0; r < s.used(); ++r)
      for (int64_t o = 0; o < s.out; ++o)
        for (int64_t i = 0; i < s.in; ++i)
          sum.add(g[static_cast<size_t>(r * s.out + o)] * inputs[static_cast<size_t>(r * s.in + i)] *
                  weights[static_cast<size_t>((s.expert_of(r) * s.out + o) * s.in + i)]);
    return sum;
  };
  one.gradients.push_back({input_gradient, before, [=](const std::vector<double>& point) {
                             std::vector<double> inputs = point;
                             for (double& value : inputs) value = activated(s.activation, value);
                             return objective(inputs, w);
                           }});
  one.gradients.push_back(
      {weight_gradient, w, [=](const std::vector<double>& point) { return objective(active, point); }});
  return one;
}

}  // namespace

CaseList moe_linear_cases() {
  CaseList cases;
  const auto forward = [&](const ExpertSettings& s, bool large = false) {
    cases.push_back({name_of("expert_linear_forward", s), large, [s] { return make_forward(s); }});
  };
  const auto backward = [&](const ExpertSettings& s, bool large = false) {
    cases.push_back({name_of("expert_linear_backward", s), large, [s] { return make_backward(s); }});
  };
  // Experts without rows, with one, with more than a tile; rows that nobody uses; sizes around tiles and vectors.
  const std::vector<ExpertSettings> shapes = {
      {.rows = {1, 1}, .spare = 0, .in = 1, .out = 1},
      {.rows = {0, 3, 0, 1}, .spare = 4, .in = 40, .out = 17},
      {.rows = {5, 0, 30, 2}, .spare = 0, .in = 33, .out = 24},
      {.rows = {17, 40, 9}, .spare = 5, .in = 64, .out = 130, .placement = {8, 8}},
      {.rows = {0, 0, 0}, .spare = 6, .in = 16, .out = 16},
      {.rows = {200, 1, 70}, .spare = 13, .in = 24, .out = 40},
  };
  for (ExpertSettings s : shapes)
    for (const DType dtype : kComputedTypes)
      for (const Activation activation :
           {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh}) {
        s.input = s.weight = dtype;
        s.activation = activation;
        s.bias = activation != Activation::none || s.spare > 0;
        forward(s);
        backward(s);
      }
  // Narrow weights, as in inference, in every order of the sums.
  for (const DType input : kComputedTypes)
    for (const DType weight : {DType::bf16, DType::f16, DType::i8, DType::u8})
      for (const RowSums row_sums : {RowSums::any, RowSums::decode, RowSums::prompt}) {
        if (weight == DType::f16 && (input != DType::f16 || row_sums == RowSums::decode)) continue;
        if (weight == DType::bf16 && input == DType::f16) continue;
        forward({.rows = {1, 0, 12, 3},
                 .spare = 2,
                 .in = 72,
                 .out = 48,
                 .input = input,
                 .weight = weight,
                 .activation = Activation::relu,
                 .row_sums = row_sums});
      }
  // So many outputs, for few rows of each expert, that a block of the decoding kernel takes two tiles of them.
  for (const DType dtype : kComputedTypes)
    for (const DType weight : {dtype, DType::i8, DType::u8})
      forward({.rows = {1, 0, 4, 1},
               .spare = 0,
               .in = 128,
               .out = 1216,
               .input = dtype,
               .weight = weight,
               .row_sums = RowSums::decode});
  for (const DType dtype : kComputedTypes) {
    ExpertSettings large{
        .rows = {300, 250, 220, 500, 200, 150, 228, 200}, .spare = 0, .in = kHidden, .out = kFeedForward};
    large.input = large.weight = dtype;
    forward(large, true);
    backward(large, true);
  }
  return cases;
}

}  // namespace cbtm
