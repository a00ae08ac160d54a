// The primitives of cuda/hopper against sums in float64. The program has code for 90a where this is built.

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "cbtm/base/half_types.h"
#include "cbtm/base/philox.h"
#include "device_context.h"
#include "tests/cuda/hopper/primitives.h"

namespace cbtm::cuda {
namespace {

struct Operand {
  Operand(DeviceContext& context, DType dtype, int64_t rows, int64_t columns, int64_t stride, uint64_t seed) {
    PhiloxStream stream(seed, 1);
    std::vector<uint16_t> bits(static_cast<size_t>(rows * stride));
    values.resize(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) {
      const auto value = static_cast<float>(2 * stream.next_uniform() - 1);
      bits[i] = dtype == DType::bf16 ? to_bf16(value).bits : to_f16(value).bits;
      values[i] = dtype == DType::bf16 ? to_float(bf16{bits[i]}) : to_float(f16{bits[i]});
    }
    const auto bytes = static_cast<int64_t>(bits.size() * 2);
    view = {context.allocate(bytes, "test"), dtype, rows, columns, stride};
    context.copy_to_device(view.data, bits.data(), bytes);
  }
  Operand(const Operand&) = delete;
  Operand& operator=(const Operand&) = delete;
  ~Operand() { cudaFree(view.data); }
  /// 0 outside, as a tile has it.
  double at(int64_t row, int64_t column) const {
    if (row >= view.rows || column >= view.columns) return 0;
    return values[static_cast<size_t>(row * view.row_stride + column)];
  }

  TensorView view;
  std::vector<double> values;
};

void check(DeviceContext& context, DType dtype, const PrimitiveCase& which, int64_t rows, int64_t columns, int64_t k) {
  CAPTURE(dtype_name(dtype));
  CAPTURE(which.columns);
  CAPTURE(which.left_from_registers);
  CAPTURE(which.left_by_rows_of_k);
  CAPTURE(which.right_by_rows_of_k);
  const bool left_turned = which.left_by_rows_of_k, right_turned = which.right_by_rows_of_k;
  const Operand left(context, dtype, left_turned ? k : rows, left_turned ? rows : k, 208, 1);
  const Operand right(context, dtype, right_turned ? k : columns, right_turned ? columns : k, 264, 2);
  std::vector<float> got(static_cast<size_t>(128 * which.columns));
  const auto bytes = static_cast<int64_t>(got.size() * 4);
  const TensorView c{context.allocate(bytes, "test"), DType::f32, 128, which.columns};
  multiply_by_primitives(which, left.view, right.view, c, context.stream);
  context.copy_to_host(got.data(), c.data, bytes);
  cudaFree(c.data);
  double worst = 0;
  for (int64_t i = 0; i < 128; ++i)
    for (int64_t j = 0; j < which.columns; ++j) {
      double want = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const double term =
            (left_turned ? left.at(l, i) : left.at(i, l)) * (right_turned ? right.at(l, j) : right.at(j, l));
        want += term;
        magnitude += std::abs(term);
      }
      const double bound = static_cast<double>(k) * std::ldexp(1.0, -23) * magnitude + 1e-30;
      worst = std::max(worst, std::abs(got[static_cast<size_t>(i * which.columns + j)] - want) / bound);
    }
  CHECK(worst <= 1);
}

}  // namespace

TEST_CASE("products by TMA and wgmma: operands in both orders, the left one from registers, tiles beyond the matrix") {
  DeviceContext context(0);
  if (context.compute_capability != 90) {
    MESSAGE("SKIPPED: compute capability ", context.compute_capability, " has no wgmma");
    return;
  }
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const int columns : {16, 80, 128, 256}) {
      if (dtype == DType::f16 && columns != 80) continue;  // the simulator compiles each kernel
      for (const bool right_turned : {false, true}) {
        check(context, dtype, {columns, false, false, right_turned}, 128, columns, 192);
        check(context, dtype, {columns, false, true, right_turned}, 128, columns, 136);
        check(context, dtype, {columns, true, false, right_turned}, 128, columns, 64);
        check(context, dtype, {columns, false, false, right_turned}, 101, columns - 8, 70);
        check(context, dtype, {columns, true, false, right_turned}, 8, columns - 8, 24);
      }
    }
}

}  // namespace cbtm::cuda
