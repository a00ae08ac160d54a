#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct GatherSettings {
  DType dtype;
  int64_t source_rows, rows, width;
  Placement source = {}, out = {};
};

/// Values that the type can hold; one of a floating type is NaN.
std::vector<double> drawn_values(const GatherSettings& s) {
  if (s.dtype == DType::f32 || s.dtype == DType::f64 || s.dtype == DType::bf16 || s.dtype == DType::f16) {
    std::vector<double> values = uniform_values(s.source_rows * s.width, 1, 1000);
    values.back() = NAN;
    return values;
  }
  return uniform_ids(s.source_rows * s.width, 128, 1);
}

OperatorCase make_gather(const GatherSettings& s) {
  OperatorCase one;
  const Operand source = one.input("source", s.dtype, s.source_rows, s.width, drawn_values(s), s.source);
  const Operand rows = one.input("rows", DType::i32, 1, s.rows, uniform_ids(s.rows, s.source_rows, 2));
  const Operand out = one.output("out", s.dtype, s.rows, s.width, s.out);
  one.bytes = static_cast<double>(s.rows * s.width * 2 * dtype_bytes(s.dtype) + s.rows * 4);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().gather_rows({.source = on[source], .rows = on[rows], .out = on[out]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.width; ++c) {
        const double value = e[source].at(static_cast<int64_t>(e[rows].at(0, r)), c);
        if (std::isnan(value))
          e.expect(out, r, c, value);
        else
          e.expect_one_of(out, r, c, {value});
      }
  };
  return one;
}

}  // namespace

CaseList gather_cases() {
  CaseList cases;
  const auto add = [&](const GatherSettings& s, bool large) {
    cases.push_back({fmt::format("gather_rows {} {}x{} of {}{}", dtype_name(s.dtype), s.rows, s.width, s.source_rows,
                                 s.source.gap + s.out.gap > 0 ? " strided" : ""),
                     large, [s] { return make_gather(s); }});
  };
  // Odd widths, rows that start anywhere, every type; rows are asked for several times.
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i64, DType::i32, DType::i8, DType::u8}) {
    add({dtype, 5, 9, 1}, false);
    add({dtype, 5, 9, 2, {5, 1}, {2, 0}}, false);
    add({dtype, 5, 9, 64}, false);
    add({dtype, 5, 9, 35, {5, 2}, {6, 0}}, false);
    add({dtype, 5, 9, 768, {}, {32, 0}}, false);
    add({dtype, 5, 9, 1031}, false);
  }
  for (const DType dtype : kComputedTypes) add({dtype, kTrainingRows, kTrainingRows / 2, kHidden}, true);
  return cases;
}

}  // namespace cbtm
