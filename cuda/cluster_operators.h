#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Clustering on a GPU: each operator opens its range for a profiler and calls the function of its family.
class CudaClusterOperators final : public ClusterOperators {
 public:
  explicit CudaClusterOperators(Context& context) : context_(context) {}

  void tfidf_rows(const TfIdfRows& a) override;
  void sparse_transpose(const SparseMatrix& a, const SparseMatrix& transposed) override;
  void sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) override;
  void gram(ConstTensorView x, TensorView product) override;
  void solve_upper(ConstTensorView upper, TensorView y) override;
  void squared_distances(ConstTensorView rows, ConstTensorView centroids, TensorView distances) override;
  void nearest_centres(const NearestCentres& a) override;
  void cluster_sums(const ClusterSums& a) override;
  void price_sweep(const PriceSweep& a) override;
  void assign_at_prices(const AssignAtPrices& a) override;
  void smallest_margins(const SmallestMargins& a) override;
  void put_labels(const PutLabels& a) override;
  void count_changes(ConstTensorView before, ConstTensorView after, TensorView count) override;
  void draw_centre(const DrawCentre& a) override;
  void mean_centres(const MeanCentres& a) override;
  void sum_in_order(ConstTensorView values, TensorView sum) override;

 private:
  Context& context_;
};

}  // namespace cbtm::cuda
