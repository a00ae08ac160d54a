#include <algorithm>
#include <cstring>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/cpu_device.h"
#include "cpu/matrix_product.h"

namespace cbtm {

void CpuDevice::sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) {
  CBTM_ASSERT(x.rows == a.columns && y.rows == a.rows && x.columns == y.columns, "shapes of a product agree");
  const double entries_per_row = a.rows > 0 ? static_cast<double>(a.indices.size()) / static_cast<double>(a.rows) : 0;
  parallel_ranges(a.rows, entries_per_row * static_cast<double>(x.columns) * 0.2, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* out = y.as<float>() + row * y.row_stride;
      std::memset(out, 0, static_cast<size_t>(y.columns) * 4);
      for (int64_t entry = a.indptr[static_cast<size_t>(row)]; entry < a.indptr[static_cast<size_t>(row) + 1]; ++entry)
        kernels_.add_scaled(a.values[static_cast<size_t>(entry)],
                            x.as<float>() + a.indices[static_cast<size_t>(entry)] * x.row_stride, x.columns, out);
    }
  });
}

void CpuDevice::gram(ConstTensorView x, TensorView product) {
  // float32 products of pieces short enough to lose nothing that matters, added in order in float64.
  constexpr int64_t kPieceRows = 1024;
  const int64_t columns = x.columns;
  double* out = product.as<double>();
  std::fill_n(out, columns * columns, 0.0);
  float* partial = scratch(0, columns * columns);
  for (int64_t first = 0; first < x.rows; first += kPieceRows) {
    const int64_t count = std::min(kPieceRows, x.rows - first);
    const float* values = x.as<float>() + first * x.row_stride;
    cpu::multiply_matrices(
        kernels_, {columns, columns, count, values, x.row_stride, true, values, x.row_stride, false, partial, columns});
    for (int64_t i = 0; i < columns * columns; ++i) out[i] += static_cast<double>(partial[i]);
  }
}

void CpuDevice::squared_distances(ConstTensorView rows, ConstTensorView centroids, TensorView squared_distances) {
  const int64_t dimensions = rows.columns;
  parallel_ranges(rows.rows, static_cast<double>(dimensions * centroids.rows) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t centroid = 0; centroid < centroids.rows; ++centroid)
        squared_distances.as<float>()[row * squared_distances.row_stride + centroid] =
            kernels_.squared_distance(rows.as<float>() + row * rows.row_stride,
                                      centroids.as<float>() + centroid * centroids.row_stride, dimensions);
  });
}

}  // namespace cbtm
