#pragma once

#include <cstdint>
#include <vector>

#include "cbtm/device/model_operators.h"
#include "cpu/simd/kernels.h"
#include "cpu/simd/narrow_products.h"

namespace cbtm {

/// Models on the processor: float32 compute; float32, bfloat16, float16, int8 or int4 weights in inference.
class CpuModelOperators : public ModelOperators {
 public:
  CpuModelOperators() : kernels_(cpu::kernels()), narrow_products_(cpu::narrow_products()) {}

  void embedding_forward(const EmbeddingForward& arguments) override;
  void embedding_backward(const EmbeddingBackward& arguments) override;
  void gather_rows(const GatherRows& arguments) override;
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
  bool has_expert_operators() const override { return true; }
  void route_tokens(const RouteTokens& arguments) override;
  void route_tokens_backward(const RouteTokensBackward& arguments) override;
  void gather_expert_rows(const GatherExpertRows& arguments) override;
  void scatter_expert_rows(const ScatterExpertRows& arguments) override;
  void expert_linear_forward(const ExpertLinearForward& arguments) override;
  void expert_linear_backward(const ExpertLinearBackward& arguments) override;
  void combine_expert_rows(const CombineExpertRows& arguments) override;
  void combine_expert_rows_backward(const CombineExpertRowsBackward& arguments) override;
  bool prompt_rows_independent() const override { return true; }
  int64_t saved_activation_columns(Activation activation, DType dtype, int64_t columns) const override;
  int64_t scratch_bytes(const EmbeddingBackward& arguments) const override;
  int64_t scratch_bytes(const ResidualLayerNormBackward& arguments) const override;
  int64_t scratch_bytes(const LinearForward& arguments) const override;
  int64_t scratch_bytes(const LinearBackward& arguments) const override;
  int64_t scratch_bytes(const AttentionForward& arguments) const override;
  int64_t scratch_bytes(const AttentionBackward& arguments) const override;
  int64_t scratch_bytes(const OutputLoss& arguments) const override;
  int64_t scratch_bytes(const RouteTokens& arguments) const override;
  int64_t scratch_bytes(const RouteTokensBackward& arguments) const override;
  int64_t scratch_bytes(const ExpertLinearForward& arguments) const override;
  int64_t scratch_bytes(const ExpertLinearBackward& arguments) const override;

 private:
  /// Bytes of scratch for `count` floats, and for the products of all threads: those keep it while other operators run.
  static int64_t bytes_with_products(int64_t count);
  /// Scratch of at least `count` floats, kept from call to call; slot by slot, one a use within an operator.
  float* scratch(int slot, int64_t count);

  const cpu::Kernels& kernels_;
  const cpu::NarrowProducts& narrow_products_;
  std::vector<float> scratch_[4];
};

namespace cpu {

inline DropoutDraw draw_of(const Dropout& dropout) {
  return {dropout.seed, dropout.step, dropout.site, dropout.limit(), dropout.kept_scale()};
}

/// Rows of a weight matrix as float32: its own memory, or widened into `buffer`.
const float* widened_rows(const Kernels& kernels, ConstTensorView weight, int64_t first, int64_t count, float* buffer);

}  // namespace cpu
}  // namespace cbtm
