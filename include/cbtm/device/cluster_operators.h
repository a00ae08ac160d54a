#pragma once

#include <cstdint>
#include <span>

#include "cbtm/device/tensor.h"

namespace cbtm {

/// A sparse matrix on the device in CSR form: row r holds the entries indptr[r] .. indptr[r+1], columns ascending.
struct SparseMatrix {
  int64_t rows = 0, columns = 0;
  TensorView indptr;   ///< int64 [1, rows + 1], from 0 to the number of entries
  TensorView indices;  ///< int32 [1, entries]
  TensorView values;   ///< float32 [1, entries]

  int64_t entries() const { return indices.columns; }
};

/// Counts become tf-idf: each value times the idf of its column, then each row divided by its length (in float64, as
/// the method does); a row of length 0 stays. In place.
struct TfIdfRows {
  SparseMatrix counts;
  ConstTensorView inverse_document_frequencies;  ///< float64 [1, columns]
};

/// labels[i] = the centroid nearest to row i (of equals the first); its squared distance and that of the second
/// nearest (infinity if there is none). Distances as of ClusterOperators::squared_distances; no [rows, centroids]
/// matrix exists.
struct NearestCentres {
  ConstTensorView rows;       ///< [n, dimensions]
  ConstTensorView centroids;  ///< [k, dimensions]
  TensorView labels;          ///< int32 [1, n]
  TensorView nearest;         ///< [1, n]
  TensorView second;          ///< [1, n], or empty
};

/// Sums of the rows of each cluster in float64, in an order that depends on shapes and labels only, and their number.
struct ClusterSums {
  ConstTensorView rows;    ///< [n, dimensions]
  ConstTensorView labels;  ///< int32 [1, n], each in [0, k)
  TensorView sums;         ///< float64 [k, dimensions]
  TensorView counts;       ///< int64 [1, k]
};

/// One sweep of coordinate ascent on the dual of balanced assignment (docs/numerics.md, 'Balanced assignment'): for j =
/// 0, 1, ... price j becomes the advantage of rank ranks[j] (0 is the largest), where the advantage of point i is min
/// over b != j of (costs[i][b] + prices[b]) - costs[i][j]: at that price ranks[j] + 1 points prefer j or do not mind.
/// Advantages are float32, or better. Nothing is done for one cluster.
struct PriceSweep {
  ConstTensorView costs;           ///< [n, k]; any row stride, so that a view of every 10th row is a sample
  std::span<const int64_t> ranks;  ///< host memory, k, each in [0, n)
  TensorView prices;               ///< float64 [1, k]
};

/// labels[i] = argmin_j costs[i][j] + prices[j] (float64; of equals the first); margins[i] = how much worse the second
/// best is (infinity for one cluster); counts[j] = points of j;
/// dual_sum = Σ_i min_j, in a fixed order.
struct AssignAtPrices {
  ConstTensorView costs;   ///< [n, k]
  ConstTensorView prices;  ///< float64 [1, k]
  TensorView labels;       ///< int32 [1, n]
  TensorView margins;      ///< float32 [1, n]
  TensorView counts;       ///< int64 [1, k]
  TensorView dual_sum;     ///< float64 [1, 1]
};

/// The operators of tf-idf, its singular value decomposition and balanced k-means (Device::cluster_operators). Dense
/// operands are float32, row-major, unless it is said.
class ClusterOperators {
 public:
  virtual ~ClusterOperators() = default;

  virtual void tfidf_rows(const TfIdfRows& arguments) = 0;
  /// transposed = aᵀ, which holds as many entries; the entries of its rows by ascending column.
  virtual void sparse_transpose(const SparseMatrix& a, const SparseMatrix& transposed) = 0;
  virtual void sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) = 0;  ///< y = A x
  /// float64 [columns, columns] = xᵀ x; float32 within pieces of at most 1024 rows.
  virtual void gram(ConstTensorView x, TensorView product) = 0;
  /// y := y R⁻¹ for an upper triangular R, float64 [columns, columns]; columns whose diagonal element is 0 become 0.
  virtual void solve_upper(ConstTensorView upper, TensorView y) = 0;
  /// squared_distances[i][j] = ||rows_i - centroids_j||², float32 differences summed, never by expanding the square.
  virtual void squared_distances(ConstTensorView rows, ConstTensorView centroids, TensorView squared_distances) = 0;
  virtual void nearest_centres(const NearestCentres& arguments) = 0;
  virtual void cluster_sums(const ClusterSums& arguments) = 0;
  virtual void price_sweep(const PriceSweep& arguments) = 0;
  virtual void assign_at_prices(const AssignAtPrices& arguments) = 0;
};

}  // namespace cbtm
