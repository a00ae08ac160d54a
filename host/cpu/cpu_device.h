#pragma once

#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cpu/simd/kernels.h"

namespace cbtm {

/// The device seam on the processor: float32 compute; float32, bfloat16 or float16 weights in inference. One file an
/// operator family in this folder; loops over values are in simd/, threads are started here only.
class CpuDevice : public Device {
 public:
  CpuDevice();

  std::string description() const override;
  double peak_flops() override;
  int64_t free_bytes() const override;

  void copy_to_device(void* destination, const void* host_source, int64_t bytes) override;
  void copy_to_host(void* host_destination, const void* source, int64_t bytes) override;
  void copy(TensorView destination, ConstTensorView source) override;
  void fill_zero(TensorView destination) override;
  void synchronize() override {}
  const void* host_readable(const void* data) const override { return data; }
  void* use_host_memory(const void* data) const override { return const_cast<void*>(data); }

  void embedding_forward(const EmbeddingForward& arguments) override;
  void embedding_backward(const EmbeddingBackward& arguments) override;
  void residual_layernorm_forward(const ResidualLayerNormForward& arguments) override;
  void residual_layernorm_backward(const ResidualLayerNormBackward& arguments) override;
  void linear_forward(const LinearForward& arguments) override;
  void linear_backward(const LinearBackward& arguments) override;
  void attention_forward(const AttentionForward& arguments) override;
  void attention_backward(const AttentionBackward& arguments) override;
  void attention_cached(const AttentionCached& arguments) override;
  void output_loss(const OutputLoss& arguments) override;
  void mixture_log_probabilities(const MixtureLogProbabilities& arguments) override;
  void sample_mixture(const SampleMixture& arguments) override;

  void add(ConstTensorView source, TensorView target) override;
  void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) override;
  void adamw(const AdamW& arguments) override;
  void require_finite(ConstTensorView values, TensorView result) override;

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

  int64_t workspace_bytes(const WorkspaceShape& shape) const override;

 protected:
  void* allocate_bytes(int64_t bytes, std::string_view purpose) override;
  void release_bytes(void* data, int64_t bytes) noexcept override;

 private:
  /// Scratch of at least `count` floats, kept from call to call; slot by slot, one a use within an operator.
  float* scratch(int slot, int64_t count);

  const cpu::Kernels& kernels_;
  double peak_flops_ = 0;
  std::vector<float> scratch_[4];
};

namespace cpu {

inline DropoutDraw draw_of(const Dropout& dropout) {
  return {dropout.probability, dropout.seed, dropout.step, dropout.site};
}

/// Rows of a weight matrix as float32: its own memory, or widened into `buffer`.
const float* widened_rows(const Kernels& kernels, ConstTensorView weight, int64_t first, int64_t count, float* buffer);

}  // namespace cpu
}  // namespace cbtm
