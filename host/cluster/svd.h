#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/sparse_rows.h"

namespace cbtm {

struct SvdOptions {
  int64_t dimensions = 100;
  int64_t oversamples = 10;
  int64_t iterations_max = 12;  ///< products with A Aᵀ after the first
  double tolerance = 1e-4;      ///< stops once no wanted singular value changes by more than this fraction
  uint64_t seed = 1234;
};

struct TruncatedSvd {
  int64_t dimensions = 0;               ///< as asked for, or the rank if that is smaller
  std::vector<double> singular_values;  ///< descending
  std::vector<float> components;        ///< [columns, dimensions], row-major; the largest entry of each is positive
  int64_t iterations = 0;
};

/// Truncated SVD of a sparse matrix (on the device) by randomised subspace iteration (Halko, Martinsson, Tropp 2011,
/// algorithms 4.4 and 5.1); orthogonalisation by Cholesky QR twice. No centring. Deterministic for a seed.
TruncatedSvd truncated_svd(Device& device, const SparseRows& rows, const SvdOptions& options);

}  // namespace cbtm
