#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/cluster_operators.h"

namespace cbtm {

void CpuClusterOperators::tfidf_rows(const TfIdfRows& arguments) {
  const SparseMatrix& counts = arguments.counts;
  const double* idf = arguments.inverse_document_frequencies.as<double>();
  const int64_t* indptr = counts.indptr.as<int64_t>();
  const int32_t* indices = counts.indices.as<int32_t>();
  float* values = counts.values.as<float>();
  parallel_ranges(counts.rows, 500, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      double square = 0;
      for (int64_t entry = indptr[row]; entry < indptr[row + 1]; ++entry) {
        const double value = static_cast<double>(values[entry]) * idf[indices[entry]];
        square += value * value;
      }
      if (square == 0) continue;
      const double length = std::sqrt(square);
      for (int64_t entry = indptr[row]; entry < indptr[row + 1]; ++entry)
        values[entry] = static_cast<float>(static_cast<double>(values[entry]) * idf[indices[entry]] / length);
    }
  });
}

void CpuClusterOperators::sparse_transpose(const SparseMatrix& a, const SparseMatrix& transposed) {
  CBTM_ASSERT(transposed.rows == a.columns && transposed.columns == a.rows && transposed.entries() == a.entries(),
              "shapes of a transposed copy agree");
  const int64_t* from_indptr = a.indptr.as<int64_t>();
  const int32_t* from_indices = a.indices.as<int32_t>();
  int64_t* indptr = transposed.indptr.as<int64_t>();
  std::fill_n(indptr, transposed.rows + 1, int64_t{0});
  for (int64_t entry = 0; entry < a.entries(); ++entry) ++indptr[from_indices[entry] + 1];
  for (int64_t row = 0; row < transposed.rows; ++row) indptr[row + 1] += indptr[row];
  std::vector<int64_t> next(indptr, indptr + transposed.rows);
  for (int64_t row = 0; row < a.rows; ++row)
    for (int64_t entry = from_indptr[row]; entry < from_indptr[row + 1]; ++entry) {
      const int64_t place = next[static_cast<size_t>(from_indices[entry])]++;
      transposed.indices.as<int32_t>()[place] = static_cast<int32_t>(row);
      transposed.values.as<float>()[place] = a.values.as<float>()[entry];
    }
}

void CpuClusterOperators::sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) {
  CBTM_ASSERT(x.rows == a.columns && y.rows == a.rows && x.columns == y.columns, "shapes of a product agree");
  const int64_t* indptr = a.indptr.as<int64_t>();
  const int32_t* indices = a.indices.as<int32_t>();
  const float* values = a.values.as<float>();
  const double entries_per_row = a.rows > 0 ? static_cast<double>(a.entries()) / static_cast<double>(a.rows) : 0;
  parallel_ranges(a.rows, entries_per_row * static_cast<double>(x.columns) * 0.2, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* out = y.as<float>() + row * y.row_stride;
      std::memset(out, 0, static_cast<size_t>(y.columns) * 4);
      for (int64_t entry = indptr[row]; entry < indptr[row + 1]; ++entry)
        kernels_.add_scaled(values[entry], x.as<float>() + indices[entry] * x.row_stride, x.columns, out);
    }
  });
}

}  // namespace cbtm
