#pragma once

#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/device_matrix.h"
#include "cluster/tfidf.h"

namespace cbtm {

/// A sparse matrix and its memory on the device.
class SparseRows {
 public:
  /// The tf-idf rows of these counts.
  SparseRows(Device& device, const TfIdf& tfidf);

  SparseMatrix matrix() const { return {rows_, columns_, indptr_.view(), indices_.view(), values_.view()}; }
  /// Made once, so that products with the transpose need no scattered sums.
  SparseRows transposed(Device& device) const;
  std::vector<float> values() const { return values_.to_host<float>(); }

 private:
  SparseRows() = default;

  int64_t rows_ = 0, columns_ = 0;
  DeviceMatrix indptr_, indices_, values_;
};

}  // namespace cbtm
