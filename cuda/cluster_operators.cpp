#include "cluster_operators.h"

#include "balanced_prices.h"
#include "clustering.h"
#include "gram.h"
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

}  // namespace cbtm::cuda
