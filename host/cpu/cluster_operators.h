#pragma once

#include "cbtm/device/cluster_operators.h"
#include "cpu/simd/kernels.h"

namespace cbtm {

/// Clustering on the processor.
class CpuClusterOperators : public ClusterOperators {
 public:
  CpuClusterOperators() : kernels_(cpu::kernels()) {}

  void tfidf_rows(const TfIdfRows& arguments) override;
  void sparse_transpose(const SparseMatrix& a, const SparseMatrix& transposed) override;
  void sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) override;
  void gram(ConstTensorView x, TensorView product) override;
  void solve_upper(ConstTensorView upper, TensorView y) override;
  void squared_distances(ConstTensorView rows, ConstTensorView centroids, TensorView squared_distances) override;
  void nearest_centres(const NearestCentres& arguments) override;
  void cluster_sums(const ClusterSums& arguments) override;
  void price_sweep(const PriceSweep& arguments) override;
  void assign_at_prices(const AssignAtPrices& arguments) override;
  void smallest_margins(const SmallestMargins& arguments) override;
  void put_labels(const PutLabels& arguments) override;
  void count_changes(ConstTensorView before, ConstTensorView after, TensorView count) override;
  void draw_centre(const DrawCentre& arguments) override;
  void mean_centres(const MeanCentres& arguments) override;
  void sum_in_order(ConstTensorView values, TensorView sum) override;

 private:
  const cpu::Kernels& kernels_;
};

}  // namespace cbtm
