#include "cluster/svd.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/philox.h"
#include "cbtm/base/threads.h"
#include "cluster/symmetric_eigen.h"

namespace cbtm {
namespace {

/// The transposed copy of a CSR matrix; made once, so that products with the transpose need no scattered sums.
struct Transposed {
  std::vector<int64_t> indptr;
  std::vector<int32_t> indices;
  std::vector<float> values;
  int64_t rows = 0, columns = 0;

  explicit Transposed(const SparseMatrix& a) : rows(a.columns), columns(a.rows) {
    indptr.assign(static_cast<size_t>(rows) + 1, 0);
    for (const int32_t column : a.indices) ++indptr[static_cast<size_t>(column) + 1];
    for (size_t i = 1; i < indptr.size(); ++i) indptr[i] += indptr[i - 1];
    std::vector<int64_t> next(indptr.begin(), indptr.end() - 1);
    indices.resize(a.indices.size());
    values.resize(a.indices.size());
    for (int64_t row = 0; row < a.rows; ++row)
      for (auto entry = static_cast<size_t>(a.indptr[static_cast<size_t>(row)]);
           entry < static_cast<size_t>(a.indptr[static_cast<size_t>(row) + 1]); ++entry) {
        const auto place = static_cast<size_t>(next[static_cast<size_t>(a.indices[entry])]++);
        indices[place] = static_cast<int32_t>(row);
        values[place] = a.values[entry];
      }
  }
  SparseMatrix matrix() const { return {rows, columns, indptr, indices, values}; }
};

using Matrix = std::vector<float>;

TensorView view(Matrix& matrix, int64_t columns) {
  return view_of(matrix.data(), static_cast<int64_t>(matrix.size()) / columns, columns);
}

/// y := y R⁻¹ with R from the Cholesky factor of yᵀy; columns that depend on earlier ones become zero. Twice, since
/// rounding spoils what the first pass makes of nearly dependent columns.
void orthonormalise(Device& device, Matrix& y, int64_t columns) {
  constexpr double kDependent = 1e-11;  // of the column's squared length
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<double> gram(static_cast<size_t>(columns * columns));
    device.gram(view(y, columns), view_of(gram.data(), columns, columns));
    const auto g = [&](int64_t i, int64_t j) -> double& { return gram[static_cast<size_t>(i * columns + j)]; };
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
    const int64_t rows = static_cast<int64_t>(y.size()) / columns;
    parallel_ranges(rows, static_cast<double>(columns * columns), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* values = y.data() + row * columns;
        for (int64_t j = 0; j < columns; ++j) {
          values[j] = g(j, j) > 0 ? static_cast<float>(static_cast<double>(values[j]) / g(j, j)) : 0.0f;
          const double value = static_cast<double>(values[j]);
          if (value == 0) continue;
          for (int64_t l = j + 1; l < columns; ++l) values[l] -= static_cast<float>(value * g(j, l));
        }
      }
    });
  }
}

}  // namespace

TruncatedSvd truncated_svd(Device& device, const SparseMatrix& matrix, const SvdOptions& options) {
  const int64_t width = std::min({options.dimensions + options.oversamples, matrix.rows, matrix.columns});
  TruncatedSvd result;
  if (width == 0) return result;
  const Transposed transposed(matrix);

  Matrix wide(static_cast<size_t>(matrix.columns * width));  // [columns of A, width]
  Matrix tall(static_cast<size_t>(matrix.rows * width));     // [rows of A, width]
  parallel_ranges(matrix.columns, static_cast<double>(width) * 50, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      PhiloxStream random(options.seed, static_cast<uint64_t>(row));
      for (int64_t i = 0; i < width; ++i)
        wide[static_cast<size_t>(row * width + i)] = static_cast<float>(random.next_normal());
    }
  });

  SymmetricEigen eigen;
  std::vector<double> before;
  const int64_t wanted = std::min(options.dimensions, width);
  for (int64_t iteration = 0;; ++iteration) {
    device.sparse_times_dense(matrix, view(wide, width), view(tall, width));
    orthonormalise(device, tall, width);
    device.sparse_times_dense(transposed.matrix(), view(tall, width), view(wide, width));  // (Qᵀ A)ᵀ
    std::vector<double> gram(static_cast<size_t>(width * width));
    device.gram(view(wide, width), view_of(gram.data(), width, width));
    eigen = symmetric_eigen(std::move(gram), width);
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
    orthonormalise(device, wide, width);
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
  result.components.resize(static_cast<size_t>(matrix.columns * dimensions));
  parallel_ranges(matrix.columns, static_cast<double>(width * dimensions), [&](int64_t begin, int64_t end) {
    std::vector<double> sums(static_cast<size_t>(dimensions));
    for (int64_t row = begin; row < end; ++row) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t i = 0; i < width; ++i) {
        const auto left = static_cast<double>(wide[static_cast<size_t>(row * width + i)]);
        for (int64_t j = 0; j < dimensions; ++j)
          sums[static_cast<size_t>(j)] += left * eigen.vectors[static_cast<size_t>(i * width + j)];
      }
      for (int64_t j = 0; j < dimensions; ++j)
        result.components[static_cast<size_t>(row * dimensions + j)] =
            static_cast<float>(sums[static_cast<size_t>(j)] / result.singular_values[static_cast<size_t>(j)]);
    }
  });
  for (int64_t j = 0; j < dimensions; ++j) {
    float extreme = 0;
    for (int64_t row = 0; row < matrix.columns; ++row) {
      const float value = result.components[static_cast<size_t>(row * dimensions + j)];
      if (std::abs(value) > std::abs(extreme)) extreme = value;
    }
    if (extreme >= 0) continue;
    for (int64_t row = 0; row < matrix.columns; ++row)
      result.components[static_cast<size_t>(row * dimensions + j)] *= -1;
  }
  return result;
}

}  // namespace cbtm
