// The primitives of cuda/hopper against sums in float64. The program has code for 90a where this is built.

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "device_context.h"
#include "tests/cuda/hopper/primitives.h"
#include "tests/cuda/product_matrix.h"

namespace cbtm::cuda {
namespace {

/// 0 outside of the matrix, as a tile has it.
double value_at(const Matrix& matrix, int64_t row, int64_t column) {
  const TensorView view = matrix.view();
  return row < view.rows && column < view.columns ? matrix.at(row, column) : 0;
}

void check(DeviceContext& context, DType dtype, const PrimitiveCase& which, int64_t rows, int64_t columns, int64_t k) {
  CAPTURE(dtype_name(dtype));
  CAPTURE(which.columns);
  CAPTURE(which.left_from_registers);
  CAPTURE(which.left_by_rows_of_k);
  CAPTURE(which.right_by_rows_of_k);
  const bool left_turned = which.left_by_rows_of_k, right_turned = which.right_by_rows_of_k;
  const Matrix left(context, dtype, left_turned ? k : rows, left_turned ? rows : k, 208, 1);
  const Matrix right(context, dtype, right_turned ? k : columns, right_turned ? columns : k, 264, 2);
  std::vector<float> got(static_cast<size_t>(128 * which.columns));
  const auto bytes = static_cast<int64_t>(got.size() * 4);
  const TensorView c{context.allocate(bytes, "test"), DType::f32, 128, which.columns};
  multiply_by_primitives(which, left.view(), right.view(), c, context.stream);
  context.copy_to_host(got.data(), c.data, bytes);
  cudaFree(c.data);
  double worst = 0;
  for (int64_t i = 0; i < 128; ++i)
    for (int64_t j = 0; j < which.columns; ++j) {
      double want = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const double term = (left_turned ? value_at(left, l, i) : value_at(left, i, l)) *
                            (right_turned ? value_at(right, l, j) : value_at(right, j, l));
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
