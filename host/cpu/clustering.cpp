#include <algorithm>
#include <cstring>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/cpu_device.h"

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
  // Partial products over fixed pieces of rows, added in order: the same for any number of threads.
  constexpr int64_t kPieceRows = 8192;
  const int64_t columns = x.columns;
  const int64_t pieces = (x.rows + kPieceRows - 1) / kPieceRows;
  double* out = product.as<double>();
  std::fill_n(out, columns * columns, 0.0);
  const int64_t batch = std::max<int64_t>(1, 2 * thread_count());
  std::vector<double> partials(static_cast<size_t>(batch * columns * columns));
  for (int64_t first = 0; first < pieces; first += batch) {
    const int64_t in_batch = std::min(batch, pieces - first);
    parallel_ranges(in_batch, 1e6, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        double* partial = partials.data() + piece * columns * columns;
        std::fill_n(partial, columns * columns, 0.0);
        const int64_t row_begin = (first + piece) * kPieceRows;
        const int64_t row_end = std::min(x.rows, row_begin + kPieceRows);
        for (int64_t row = row_begin; row < row_end; ++row) {
          const float* values = x.as<float>() + row * x.row_stride;
          for (int64_t i = 0; i < columns; ++i) {
            const double left = static_cast<double>(values[i]);
            double* target = partial + i * columns;
            for (int64_t j = i; j < columns; ++j) target[j] += left * static_cast<double>(values[j]);
          }
        }
      }
    });
    for (int64_t piece = 0; piece < in_batch; ++piece)
      for (int64_t i = 0; i < columns * columns; ++i)
        out[i] += partials[static_cast<size_t>(piece * columns * columns + i)];
  }
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < i; ++j) out[i * columns + j] = out[j * columns + i];
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
