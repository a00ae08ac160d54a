#include "cluster/sparse_rows.h"

#include "cbtm/device/cluster_operators.h"

namespace cbtm {

constexpr const char* kPurpose = "the tf-idf matrix (--fit-documents)";

SparseRows::SparseRows(Device& device, const TfIdf& tfidf)
    : rows_(tfidf.rows()),
      columns_(static_cast<int64_t>(tfidf.vocabulary.size())),
      indptr_(DeviceMatrix::reading<int64_t>(device, tfidf.indptr, 1, kPurpose)),
      indices_(DeviceMatrix::reading<int32_t>(device, tfidf.indices, 1, kPurpose)),
      values_(DeviceMatrix::copy_of<float>(device, tfidf.counts, 1, kPurpose)) {
  const DeviceMatrix idf = DeviceMatrix::reading<double>(device, tfidf.idf, 1, kPurpose);
  device.cluster_operators().tfidf_rows({matrix(), idf.view()});
}

SparseRows SparseRows::transposed(Device& device) const {
  SparseRows result;
  result.rows_ = columns_;
  result.columns_ = rows_;
  result.indptr_ = DeviceMatrix(device, DType::i64, 1, columns_ + 1, kPurpose);
  result.indices_ = DeviceMatrix(device, DType::i32, 1, indices_.view().columns, kPurpose);
  result.values_ = DeviceMatrix(device, DType::f32, 1, indices_.view().columns, kPurpose);
  device.cluster_operators().sparse_transpose(matrix(), result.matrix());
  return result;
}

}  // namespace cbtm
