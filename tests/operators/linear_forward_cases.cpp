#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/activation_reference.h"
#include "tests/operators/cases.h"
#include "tests/operators/weights.h"

namespace cbtm {
namespace {

struct LinearSettings {
  int64_t rows, in, out;
  DType input = DType::f32, weight = DType::f32, output = DType::f32;
  Activation activation = Activation::none;
  bool bias = true;
  bool save = false;  ///< what the activation's backward pass needs
  Placement placement = {}, weight_placement = {};
};

std::string name_of(const LinearSettings& s) {
  return fmt::format("linear_forward {}*{}>{} {}x{}x{} {}{}{}{}", dtype_name(s.input), weight_type_name(s.weight),
                     dtype_name(s.output), s.rows, s.in, s.out, activation_name(s.activation), s.bias ? " bias" : "",
                     s.save ? " saved" : "", s.placement.gap + s.weight_placement.gap > 0 ? " strided" : "");
}

OperatorCase make_linear_forward(const LinearSettings& s) {
  OperatorCase one{.computed = s.input};
  std::vector<double> values = uniform_values(s.rows * s.in, 1);
  if (!values.empty()) values[0] = 60;  // an outlier, as in OPT's activations
  const Operand input = one.input("input", s.input, s.rows, s.in, values, s.placement);
  const WeightOperands weight = add_weights(one, s.weight, s.out, s.in, 2, 1, s.weight_placement);
  // Few rows come with the biases as they are kept in inference, in float32.
  const Operand bias =
      s.bias ? one.input("bias", s.rows <= 8 ? DType::f32 : s.output, 1, s.out, uniform_values(s.out, 3)) : Operand();
  // A slice of larger rows, but not of odd ones: products are written to what starts at a multiple of 16 bytes.
  const Operand output =
      one.output("output", s.output, s.rows, s.out, s.placement.gap > 0 ? Placement{9, 8} : Placement{});
  const bool saves_values = s.save && is_gelu(s.activation);
  const Operand saved = saves_values ? one.output("saved", s.output, s.rows, s.out) : Operand();
  one.flops = 2.0 * static_cast<double>(s.rows * s.in * s.out);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    ModelOperators& operators = device.model_operators();
    TensorView kept = on[saved];
    if (saves_values)  // the values themselves, on every device
      kept = {kept.data, DType::u8, s.rows, s.out * dtype_bytes(s.output), s.out * dtype_bytes(s.output)};
    else if (s.save)
      kept = on.opaque(s.rows, operators.saved_activation_columns(s.activation, s.output, s.out));
    operators.linear_forward({.input = on[input],
                              .weight = on[weight.matrix],
                              .bias = on[bias],
                              .activation = s.activation,
                              .output = on[output],
                              .saved = kept,
                              .weight_scales = on[weight.scales]});
  };
  one.reference = [=](Expectation& e) {
    const bool quantised = static_cast<bool>(weight.scales);
    for (int64_t r = 0; r < s.rows; ++r) {
      const std::vector<Bounded> activations = multiplied_activations(e[input], r, s.weight);
      for (int64_t o = 0; o < s.out; ++o) {
        Sum sum(s.weight == DType::bf16 ? DType::bf16 : s.input);
        for (int64_t i = 0; i < s.in; ++i) {
          Bounded w = weight.meant[static_cast<size_t>(o * s.in + i)];
          // Code times scale is rounded, or the sum of codes is; many rows are multiplied as the input's type.
          if (quantised) w = stored(with_units(w, 3), s.rows > 8 ? s.input : DType::f32);
          sum.add_product(activations[static_cast<size_t>(i)], w);
        }
        if (s.bias) sum.add(e[bias].at(0, o));
        Bounded pre_activation = sum.result();
        if (bias && e[bias].dtype != s.output) {
          // Where the product is the library's, the bias has the output's type.
          const double b = e[bias].at(0, o);
          pre_activation.error += unit_roundoff(s.output) * std::abs(b);
        }
        if (is_gelu(s.activation)) pre_activation = stored(pre_activation, s.output);
        if (saves_values) e.expect(saved, r, o, pre_activation);
        e.expect(output, r, o, activated(s.activation, pre_activation));
      }
    }
  };
  return one;
}

}  // namespace

CaseList linear_forward_cases() {
  std::vector<LinearSettings> small;
  // Sizes around tiles and vectors, every activation, with and without what backward needs, in slices of larger rows.
  for (const auto& [rows, in, out] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {3, 5, 1}, {9, 8, 24}, {33, 40, 17}, {20, 129, 130}})
    for (const DType dtype : kComputedTypes)
      for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh})
        small.push_back({.rows = rows,
                         .in = in,
                         .out = out,
                         .input = dtype,
                         .weight = dtype,
                         .output = dtype,
                         .activation = activation,
                         .bias = activation != Activation::none || rows == 33,
                         .save = activation == Activation::relu || is_gelu(activation),
                         .placement = rows == 9 ? Placement{8, 8} : Placement{11, 3}});
  // Few rows and many, weights of every type.
  // Groups of int4 weights, and what is left of them, are the reason for so many widths.
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 40})
    for (const int64_t in : {1, 16, 31, 32, 33, 64, 100, 257})
      for (const DType weight : {DType::f32, DType::bf16, DType::f16, DType::i8, DType::u8})
        if (weight == DType::i8 || weight == DType::u8 || in == 1 || in == 31 || in == 64 || in == 257)
          small.push_back({.rows = rows,
                           .in = in,
                           .out = in == 1 ? 1 : 13,
                           .weight = weight,
                           .activation = in == 64 || in == 100 ? Activation::relu : Activation::none,
                           .bias = in != 31});
  for (const DType weight : {DType::f32, DType::bf16, DType::f16})
    small.push_back({.rows = 70, .in = 100, .out = 257, .weight = weight, .activation = Activation::relu});
  for (const auto& [rows, in, out] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 520, 16}, {3, 777, 11}, {8, 130, 40}, {12, 96, 24}, {33, 96, 24}})
    for (const DType dtype : {DType::bf16, DType::f16})
      for (const DType weight : {dtype, DType::i8, DType::u8})
        for (const DType output : {dtype, DType::f32})
          small.push_back({.rows = rows, .in = in, .out = out, .input = dtype, .weight = weight, .output = output});
  // Quantised weights of prompts: tiles of 64 and 128 rows and outputs, steps of 64 and 128 columns; 257 rows, and 100
  // columns, are beyond the kernel that reads them as they are; int4 has it for multiples of 128 columns.
  for (const auto& [rows, in, out] : {std::tuple<int64_t, int64_t, int64_t>{33, 16, 1},
                                      {63, 80, 65},
                                      {65, 128, 64},
                                      {70, 100, 40},
                                      {127, 256, 17},
                                      {129, 384, 130},
                                      {256, 128, 24},
                                      {257, 64, 24}})
    for (const DType dtype : {DType::bf16, DType::f16})
      for (const DType weight : {DType::i8, DType::u8})
        small.push_back({.rows = rows,
                         .in = in,
                         .out = out,
                         .input = dtype,
                         .weight = weight,
                         .output = rows % 2 == 0 ? DType::f32 : dtype,
                         .activation = rows == 65    ? Activation::relu
                                       : rows == 129 ? Activation::gelu_tanh
                                                     : Activation::none,
                         .bias = rows > 64});
  small.push_back({.rows = 5, .in = 40, .out = 30, .weight_placement = {5, 2}});
  small.push_back({.rows = 20, .in = 40, .out = 30, .weight_placement = {5, 2}});
  small.push_back({.rows = 20, .in = 40, .out = 30, .weight = DType::bf16, .weight_placement = {3, 1}});

  CaseList cases;
  for (const LinearSettings& s : small) cases.push_back({name_of(s), false, [s] { return make_linear_forward(s); }});
  const auto add_large = [&](const LinearSettings& s) {
    cases.push_back({name_of(s), true, [s] { return make_linear_forward(s); }});
  };
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{kHidden, 3 * kHidden}, {kHidden, kFeedForward}})
    for (const DType dtype : kComputedTypes) {
      add_large({.rows = kTrainingRows, .in = in, .out = out, .input = dtype, .weight = dtype, .output = dtype});
      for (const int64_t rows : {1, 8})
        for (const DType weight : {DType::f32, DType::bf16, DType::i8, DType::u8})
          if (dtype == DType::f32 || (weight != DType::f32 && (dtype == DType::bf16 || weight != DType::bf16)))
            add_large({.rows = rows, .in = in, .out = out, .input = dtype, .weight = weight, .output = dtype});
    }
  return cases;
}

}  // namespace cbtm
