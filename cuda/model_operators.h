#pragma once

#include "bias_gradients.h"
#include "cbtm/device/model_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Models on a GPU: each operator opens its range for a profiler and calls the function of its family.
class CudaModelOperators final : public ModelOperators {
 public:
  explicit CudaModelOperators(Context& context) : context_(context), bias_gradients_(context) {}

  void embedding_forward(const EmbeddingForward& a) override;
  void embedding_backward(const EmbeddingBackward& a) override;
  void gather_rows(const GatherRows& a) override;
  void residual_layernorm_forward(const ResidualLayerNormForward& a) override;
  void residual_layernorm_backward(const ResidualLayerNormBackward& a) override;
  void linear_forward(const LinearForward& a) override;
  void linear_backward(const LinearBackward& a) override;
  void attention_forward(const AttentionForward& a) override;
  void attention_backward(const AttentionBackward& a) override;
  void attention_cached(const AttentionCached& a) override;
  void output_loss(const OutputLoss& a) override;
  void mixture_log_probabilities(const MixtureLogProbabilities& a) override;
  void sample_mixture(const SampleMixture& a) override;
  bool has_expert_operators() const override { return true; }
  void route_tokens(const RouteTokens& a) override;
  void route_tokens_backward(const RouteTokensBackward& a) override;
  void gather_expert_rows(const GatherExpertRows& a) override;
  void scatter_expert_rows(const ScatterExpertRows& a) override;
  void expert_linear_forward(const ExpertLinearForward& a) override;
  void expert_linear_backward(const ExpertLinearBackward& a) override;
  void combine_expert_rows(const CombineExpertRows& a) override;
  void combine_expert_rows_backward(const CombineExpertRowsBackward& a) override;
  void finish_backward() override;
  int64_t lay_out_sequences(const PassSequences& sequences) override;
  bool prompt_rows_independent() const override { return false; }  // cuBLASLt promises nothing of the kind
  int64_t saved_activation_columns(Activation activation, DType dtype, int64_t columns) const override;
  int64_t scratch_bytes(const EmbeddingBackward& a) const override;
  int64_t scratch_bytes(const ResidualLayerNormBackward& a) const override;
  int64_t scratch_bytes(const LinearForward& a) const override;
  int64_t scratch_bytes(const LinearBackward& a) const override;
  int64_t scratch_bytes(const AttentionForward& a) const override;
  int64_t scratch_bytes(const AttentionBackward& a) const override;
  int64_t scratch_bytes(const OutputLoss& a) const override;
  int64_t scratch_bytes(const RouteTokens& a) const override;
  int64_t scratch_bytes(const RouteTokensBackward& a) const override;
  int64_t scratch_bytes(const ExpertLinearForward& a) const override;
  int64_t scratch_bytes(const ExpertLinearBackward& a) const override;
  int64_t held_bytes(const LinearBackward& a) const override;
  void reserve_scratch(int64_t scratch_bytes, int64_t held_bytes) override;

  bool tunes() const override { return true; }
  void tune(bool on) override;

  /// A backward pass was given up: what it held is not added.
  void forget_backward() { bias_gradients_.forget(); }

 private:
  Context& context_;
  BiasGradients bias_gradients_;
};

}  // namespace cbtm::cuda
