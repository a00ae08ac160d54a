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
  TensorView labels;       ///< int32 [1, n], or empty
  TensorView margins;      ///< float32 [1, n], or empty
  TensorView counts;       ///< int64 [1, k]
  TensorView dual_sum;     ///< float64 [1, 1]
};

/// points = those whose margin is at most the `wanted`-th smallest of all margins, ascending; count = how many.
struct SmallestMargins {
  ConstTensorView margins;  ///< [1, n], no NaN
  int64_t wanted = 0;       ///< from 1 to n
  TensorView points;        ///< int32 [1, n], of which `count` are written
  TensorView count;         ///< int64 [1, 1]
};

/// labels[points[i]] = values[i]; no point occurs twice.
struct PutLabels {
  ConstTensorView points;  ///< int32 [1, m], each in [0, n)
  ConstTensorView values;  ///< int32 [1, m]
  TensorView labels;       ///< int32 [1, n]
};

/// One draw of k-means++ (Arthur and Vassilvitskii 2007). First closest[i] = the least squared distance of row i to the
/// rows chosen so far: min(closest[i], that to chosen[step - 1]); at step 1 only the latter. Then chosen[step] = the
/// first row i at which `rest`, which begins as uniform * total, becomes negative, where for i = 0, 1, ... in this
/// order total += closest[i] and rest -= closest[i], each rounded to float64; or `otherwise` if there is none (all rows
/// are centres).
struct DrawCentre {
  ConstTensorView rows;  ///< [n, dimensions]
  TensorView closest;    ///< [1, n]
  TensorView chosen;     ///< int32 [1, k]
  int64_t step = 1;
  double uniform = 0;  ///< in [0, 1)
  int64_t otherwise = 0;
};

/// centroids[j] = sums[j] / counts[j], rounded to float32. Clusters that have no rows take those farthest from their
/// centres instead, by `distances`: the first such cluster the farthest row, the next the next one, of equals the
/// first.
struct MeanCentres {
  ConstTensorView sums;       ///< float64 [k, dimensions]
  ConstTensorView counts;     ///< int64 [1, k]
  ConstTensorView rows;       ///< [n, dimensions]
  ConstTensorView distances;  ///< [1, n]; empty where no cluster is without rows
  TensorView centroids;       ///< [k, dimensions]
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
  virtual void smallest_margins(const SmallestMargins& arguments) = 0;
  virtual void put_labels(const PutLabels& arguments) = 0;
  /// count, int64 [1, 1] = how many of two rows of labels differ.
  virtual void count_changes(ConstTensorView before, ConstTensorView after, TensorView count) = 0;
  virtual void draw_centre(const DrawCentre& arguments) = 0;
  virtual void mean_centres(const MeanCentres& arguments) = 0;
  /// sum, float64 [1, 1], of float32 values [1, n] added one after another, each sum rounded to float64.
  virtual void sum_in_order(ConstTensorView values, TensorView sum) = 0;
};

}  // namespace cbtm
