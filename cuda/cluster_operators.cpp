#include "cluster_operators.h"

#include "balanced_prices.h"
#include "clustering.h"
#include "draw_centre.h"
#include "gram.h"
#include "label_changes.h"
#include "runtime/phases.h"
#include "sparse.h"

namespace cbtm::cuda {

void CudaClusterOperators::tfidf_rows(const TfIdfRows& a) {
  const OperatorRange range("tfidf_rows");
  cuda::tfidf_rows(context_, a);
}

void CudaClusterOperators::sparse_transpose(const SparseMatrix& a, const SparseMatrix& transposed) {
  const OperatorRange range("sparse_transpose");
  cuda::sparse_transpose(context_, a, transposed);
}

void CudaClusterOperators::sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) {
  const OperatorRange range("sparse_times_dense");
  cuda::sparse_times_dense(context_, a, x, y);
}

void CudaClusterOperators::gram(ConstTensorView x, TensorView product) {
  const OperatorRange range("gram");
  cuda::gram(context_, x, product);
}

void CudaClusterOperators::solve_upper(ConstTensorView upper, TensorView y) {
  const OperatorRange range("solve_upper");
  cuda::solve_upper(context_, upper, y);
}

void CudaClusterOperators::squared_distances(ConstTensorView rows, ConstTensorView centroids, TensorView distances) {
  const OperatorRange range("squared_distances");
  cuda::squared_distances(context_, rows, centroids, distances);
}

void CudaClusterOperators::nearest_centres(const NearestCentres& a) {
  const OperatorRange range("nearest_centres");
  cuda::nearest_centres(context_, a);
}

void CudaClusterOperators::cluster_sums(const ClusterSums& a) {
  const OperatorRange range("cluster_sums");
  cuda::cluster_sums(context_, a);
}

void CudaClusterOperators::price_sweep(const PriceSweep& a) {
  const OperatorRange range("price_sweep");
  cuda::price_sweep(context_, a);
}

void CudaClusterOperators::assign_at_prices(const AssignAtPrices& a) {
  const OperatorRange range("assign_at_prices");
  cuda::assign_at_prices(context_, a);
}

void CudaClusterOperators::smallest_margins(const SmallestMargins& a) {
  const OperatorRange range("smallest_margins");
  cuda::smallest_margins(context_, a);
}

void CudaClusterOperators::put_labels(const PutLabels& a) {
  const OperatorRange range("put_labels");
  cuda::put_labels(context_, a);
}

void CudaClusterOperators::count_changes(ConstTensorView before, ConstTensorView after, TensorView count) {
  const OperatorRange range("count_changes");
  cuda::count_changes(context_, before, after, count);
}

void CudaClusterOperators::draw_centre(const DrawCentre& a) {
  const OperatorRange range("draw_centre");
  cuda::draw_centre(context_, a);
}

void CudaClusterOperators::mean_centres(const MeanCentres& a) {
  const OperatorRange range("mean_centres");
  cuda::mean_centres(context_, a);
}

void CudaClusterOperators::sum_in_order(ConstTensorView values, TensorView sum) {
  const OperatorRange range("sum_in_order");
  cuda::sum_in_order(context_, values, sum);
}

}  // namespace cbtm::cuda
