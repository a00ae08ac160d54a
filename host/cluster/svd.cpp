#include "cluster/svd.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/philox.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/threads.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/model_operators.h"
#include "cluster/symmetric_eigen.h"

namespace cbtm {
namespace {

constexpr const char* kStage = "the SVD";

/// y := y R⁻¹ with R from the Cholesky factor of yᵀy; columns that depend on earlier ones become zero. Twice, since
/// rounding spoils what the first pass makes of nearly dependent columns.
void orthonormalise(Device& device, const DeviceMatrix& y, const DeviceMatrix& gram) {
  constexpr double kDependent = 1e-11;  // of the column's squared length
  const int64_t columns = y.view().columns;
  for (int pass = 0; pass < 2; ++pass) {
    stop_if_requested(kStage);
    device.cluster_operators().gram(y.view(), gram.view());
    std::vector<double> factor = gram.to_host<double>();
    const auto g = [&](int64_t i, int64_t j) -> double& { return factor[static_cast<size_t>(i * columns + j)]; };
    // Upper factor in place, row by row; a zero pivot marks a dependent column.
    for (int64_t j = 0; j < columns; ++j) {
      const double length = g(j, j);
      for (int64_t i = 0; i < j; ++i) {
        double sum = g(i, j);
        for (int64_t l = 0; l < i; ++l) sum -= g(l, i) * g(l, j);
        g(i, j) = g(i, i) > 0 ? sum / g(i, i) : 0;
      }
      double rest = length;
      for (int64_t l = 0; l < j; ++l) rest -= g(l, j) * g(l, j);
      g(j, j) = rest > kDependent * length && length > 0 ? std::sqrt(rest) : 0;
    }
    gram.write<double>(factor);
    device.cluster_operators().solve_upper(gram.view(), y.view());
  }
}

/// Normal numbers [rows, columns]; row r is stream r.
std::vector<float> random_directions(int64_t rows, int64_t columns, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  parallel_ranges(rows, static_cast<double>(columns) * 50, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      PhiloxStream random(seed, static_cast<uint64_t>(row));
      for (int64_t i = 0; i < columns; ++i)
        values[static_cast<size_t>(row * columns + i)] = static_cast<float>(random.next_normal());
    }
  });
  return values;
}

/// The largest entry of each column becomes positive.
void fix_signs(std::vector<float>& values, int64_t columns) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  for (int64_t j = 0; j < columns; ++j) {
    float extreme = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const float value = values[static_cast<size_t>(row * columns + j)];
      if (std::abs(value) > std::abs(extreme)) extreme = value;
    }
    if (extreme >= 0) continue;
    for (int64_t row = 0; row < rows; ++row) values[static_cast<size_t>(row * columns + j)] *= -1;
  }
}

}  // namespace

TruncatedSvd truncated_svd(Device& device, const SparseRows& rows, const SvdOptions& options) {
  const SparseMatrix matrix = rows.matrix();
  // A multiple of 4 where the matrix allows it: rows of whole 16-byte vectors.
  const int64_t sketch = (options.dimensions + options.oversamples + 3) / 4 * 4;
  const int64_t width = std::min({sketch, matrix.rows, matrix.columns});
  TruncatedSvd result;
  if (width == 0) return result;
  const SparseRows transposed = rows.transposed(device);

  const char* purpose = "the sketch of the SVD (--dimensions)";
  const DeviceMatrix wide = DeviceMatrix::padded(device, DType::f32, matrix.columns, width, purpose);
  const DeviceMatrix tall = DeviceMatrix::padded(device, DType::f32, matrix.rows, width, purpose);
  const DeviceMatrix gram(device, DType::f64, width, width, "the sketch of the SVD");
  wide.write<float>(random_directions(matrix.columns, width, options.seed));

  SymmetricEigen eigen;
  std::vector<double> before;
  const int64_t wanted = std::min(options.dimensions, width);
  for (int64_t iteration = 0;; ++iteration) {
    stop_if_requested(kStage);
    device.cluster_operators().sparse_times_dense(matrix, wide.view(), tall.view());
    orthonormalise(device, tall, gram);
    stop_if_requested(kStage);
    device.cluster_operators().sparse_times_dense(transposed.matrix(), tall.view(), wide.view());  // (Qᵀ A)ᵀ
    device.cluster_operators().gram(wide.view(), gram.view());
    eigen = symmetric_eigen(gram.to_host<double>(), width);
    double change = 0;
    for (int64_t i = 0; i < wanted && !before.empty(); ++i)
      if (before[static_cast<size_t>(i)] > 0)
        change = std::max(change, std::abs(std::sqrt(std::max(0.0, eigen.values[static_cast<size_t>(i)]) /
                                                     before[static_cast<size_t>(i)]) -
                                           1));
    result.iterations = iteration;
    const bool settled = !before.empty() && change <= options.tolerance;
    before = eigen.values;
    if (settled || iteration >= options.iterations_max) break;
    orthonormalise(device, wide, gram);
  }

  // A ≈ Q B, B = wideᵀ; B Bᵀ = U Σ² Uᵀ, so V = wide U Σ⁻¹.
  constexpr double kRankTolerance = 1e-6;  // of the largest singular value: below is float32 noise
  const double largest = std::sqrt(std::max(0.0, eigen.values[0]));
  while (result.dimensions < wanted &&
         std::sqrt(std::max(0.0, eigen.values[static_cast<size_t>(result.dimensions)])) > kRankTolerance * largest) {
    result.singular_values.push_back(std::sqrt(eigen.values[static_cast<size_t>(result.dimensions)]));
    ++result.dimensions;
  }
  const int64_t dimensions = result.dimensions;
  if (dimensions == 0) return result;
  std::vector<float> rotation(static_cast<size_t>(dimensions * width));  // row j: column j of U Σ⁻¹
  for (int64_t j = 0; j < dimensions; ++j)
    for (int64_t i = 0; i < width; ++i)
      rotation[static_cast<size_t>(j * width + i)] = static_cast<float>(
          eigen.vectors[static_cast<size_t>(i * width + j)] / result.singular_values[static_cast<size_t>(j)]);
  const DeviceMatrix weight = DeviceMatrix::reading<float>(device, rotation, dimensions, "the components of the SVD");
  const DeviceMatrix components =
      DeviceMatrix::padded(device, DType::f32, matrix.columns, dimensions, "the components of the SVD");
  device.model_operators().linear_forward(
      {.input = wide.view(), .weight = weight.view(), .bias = {}, .output = components.view()});
  result.components = components.to_host<float>();
  fix_signs(result.components, dimensions);
  return result;
}

}  // namespace cbtm
