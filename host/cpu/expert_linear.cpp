#include "cpu/model_operators.h"

namespace cbtm {
namespace {

/// Calls part(expert, first sorted row, rows) for each expert that has rows.
template <typename Part>
void for_each_expert(ConstTensorView offsets, const Part& part) {
  const int32_t* begins = offsets.as<int32_t>();
  for (int64_t expert = 0; expert + 1 < offsets.columns; ++expert)
    if (const int64_t rows = begins[expert + 1] - begins[expert]; rows > 0) part(expert, begins[expert], rows);
}

template <bool kConst>
BasicTensorView<kConst> rows_of(BasicTensorView<kConst> view, int64_t first, int64_t count) {
  return view ? view.row_range(first, count) : view;
}
template <bool kConst>
BasicTensorView<kConst> columns_of(BasicTensorView<kConst> view, int64_t first, int64_t count) {
  return view ? view.column_range(first, count) : view;
}

/// One expert's layer over `rows` rows, for what scratch memory it takes.
LinearForward one_expert(const ExpertLinearForward& arguments) {
  ConstTensorView weight = arguments.weight;
  weight.rows = arguments.out();
  return {.input = arguments.input, .weight = weight, .bias = {}, .output = arguments.output};
}

}  // namespace

int64_t CpuModelOperators::scratch_bytes(const ExpertLinearForward& arguments) const {
  return scratch_bytes(one_expert(arguments));
}
int64_t CpuModelOperators::scratch_bytes(const ExpertLinearBackward&) const { return bytes_with_products(0); }

void CpuModelOperators::expert_linear_forward(const ExpertLinearForward& arguments) {
  const int64_t out = arguments.out();
  CBTM_ASSERT(arguments.weight.rows == arguments.experts() * out, "each expert has a matrix");
  const ConstTensorView scales = arguments.weight_scales;
  for_each_expert(arguments.offsets, [&](int64_t expert, int64_t first, int64_t rows) {
    // The scales of int8 weights are one row, those of int4 weights have a row for each output.
    const bool scale_rows = scales && scales.rows > 1;
    linear_forward(
        {.input = arguments.input.row_range(first, rows),
         .weight = arguments.weight.row_range(expert * out, out),
         .bias = columns_of(arguments.bias, expert * out, out),
         .activation = arguments.activation,
         .output = arguments.output.row_range(first, rows),
         .saved = rows_of(arguments.saved, first, rows),
         .weight_scales = scale_rows ? rows_of(scales, expert * out, out) : columns_of(scales, expert * out, out),
         .row_sums = arguments.row_sums});
  });
}

void CpuModelOperators::expert_linear_backward(const ExpertLinearBackward& arguments) {
  const int64_t out = arguments.out();
  for_each_expert(arguments.offsets, [&](int64_t expert, int64_t first, int64_t rows) {
    linear_backward({.input = arguments.input.row_range(first, rows),
                     .weight = arguments.weight.row_range(expert * out, out),
                     .output_gradient = arguments.output_gradient.row_range(first, rows),
                     .input_gradient = rows_of(arguments.input_gradient, first, rows),
                     .input_activation = arguments.input_activation,
                     .input_saved = rows_of(arguments.input_saved, first, rows),
                     .weight_gradient = rows_of(arguments.weight_gradient, expert * out, out),
                     .bias_gradient = columns_of(arguments.bias_gradient, expert * out, out)});
  });
}

}  // namespace cbtm
