#include "model_operators.h"

#include "attention/attention.h"
#include "attention/attention_cached.h"
#include "embedding.h"
#include "gather.h"
#include "layernorm.h"
#include "linear.h"
#include "matmul.h"
#include "mixture.h"
#include "moe/expert_linear.h"
#include "moe/expert_rows.h"
#include "moe/route_tokens.h"
#include "output_loss.h"
#include "runtime/phases.h"
#include "runtime/sequence_tables.h"

namespace cbtm::cuda {

void CudaModelOperators::embedding_forward(const EmbeddingForward& a) {
  const OperatorRange range("embedding_forward");
  cuda::embedding_forward(context_, a);
}

void CudaModelOperators::embedding_backward(const EmbeddingBackward& a) {
  const OperatorRange range("embedding_backward");
  cuda::embedding_backward(context_, a);
}

void CudaModelOperators::gather_rows(const GatherRows& a) {
  const OperatorRange range("gather_rows");
  cuda::gather_rows(context_, a);
}

void CudaModelOperators::residual_layernorm_forward(const ResidualLayerNormForward& a) {
  const OperatorRange range("residual_layernorm_forward");
  cuda::residual_layernorm_forward(context_, a);
}

void CudaModelOperators::residual_layernorm_backward(const ResidualLayerNormBackward& a) {
  const OperatorRange range("residual_layernorm_backward");
  cuda::residual_layernorm_backward(context_, a);
}

void CudaModelOperators::linear_forward(const LinearForward& a) {
  const OperatorRange range("linear_forward");
  cuda::linear_forward(context_, a);
}

void CudaModelOperators::linear_backward(const LinearBackward& a) {
  const OperatorRange range("linear_backward");
  cuda::linear_backward(context_, a, bias_gradients_);
}

void CudaModelOperators::attention_forward(const AttentionForward& a) {
  const OperatorRange range("attention_forward");
  cuda::attention_forward(context_, a);
}

void CudaModelOperators::attention_backward(const AttentionBackward& a) {
  const OperatorRange range("attention_backward");
  cuda::attention_backward(context_, a);
}

void CudaModelOperators::attention_cached(const AttentionCached& a) {
  const OperatorRange range("attention_cached");
  cuda::attention_cached(context_, a);
}

void CudaModelOperators::output_loss(const OutputLoss& a) {
  const OperatorRange range("output_loss");
  cuda::output_loss(context_, a);
}

void CudaModelOperators::mixture_log_probabilities(const MixtureLogProbabilities& a) {
  const OperatorRange range("mixture_log_probabilities");
  cuda::mixture_log_probabilities(context_, a);
}

void CudaModelOperators::sample_mixture(const SampleMixture& a) {
  const OperatorRange range("sample_mixture");
  cuda::sample_mixture(context_, a);
}

void CudaModelOperators::route_tokens(const RouteTokens& a) {
  const OperatorRange range("route_tokens");
  cuda::route_tokens(context_, a);
}

void CudaModelOperators::route_tokens_backward(const RouteTokensBackward& a) {
  const OperatorRange range("route_tokens_backward");
  cuda::route_tokens_backward(context_, a);
}

void CudaModelOperators::gather_expert_rows(const GatherExpertRows& a) {
  const OperatorRange range("gather_expert_rows");
  cuda::gather_expert_rows(context_, a);
}

void CudaModelOperators::scatter_expert_rows(const ScatterExpertRows& a) {
  const OperatorRange range("scatter_expert_rows");
  cuda::scatter_expert_rows(context_, a);
}

void CudaModelOperators::expert_linear_forward(const ExpertLinearForward& a) {
  const OperatorRange range("expert_linear_forward");
  cuda::expert_linear_forward(context_, a);
}

void CudaModelOperators::expert_linear_backward(const ExpertLinearBackward& a) {
  const OperatorRange range("expert_linear_backward");
  cuda::expert_linear_backward(context_, a);
}

void CudaModelOperators::combine_expert_rows(const CombineExpertRows& a) {
  const OperatorRange range("combine_expert_rows");
  cuda::combine_expert_rows(context_, a);
}

void CudaModelOperators::combine_expert_rows_backward(const CombineExpertRowsBackward& a) {
  const OperatorRange range("combine_expert_rows_backward");
  cuda::combine_expert_rows_backward(context_, a);
}

int64_t CudaModelOperators::lay_out_sequences(const PassSequences& sequences) {
  return context_.sequence_tables(sequences).layout();
}

void CudaModelOperators::finish_backward() {
  const OperatorRange range("finish_backward");
  bias_gradients_.add_held();
}

int64_t CudaModelOperators::saved_activation_columns(Activation activation, DType dtype, int64_t columns) const {
  return cuda::saved_activation_columns(activation, dtype, columns);
}

int64_t CudaModelOperators::scratch_bytes(const EmbeddingBackward& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const ResidualLayerNormBackward& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const LinearForward& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const LinearBackward& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const AttentionForward&) const { return MatmulPlans::kWorkspaceBytes; }

int64_t CudaModelOperators::scratch_bytes(const AttentionBackward& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const OutputLoss& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const RouteTokens& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const RouteTokensBackward& a) const {
  return MatmulPlans::kWorkspaceBytes + cuda::scratch_bytes(context_, a);
}

int64_t CudaModelOperators::scratch_bytes(const ExpertLinearForward&) const { return MatmulPlans::kWorkspaceBytes; }

int64_t CudaModelOperators::scratch_bytes(const ExpertLinearBackward&) const { return MatmulPlans::kWorkspaceBytes; }

int64_t CudaModelOperators::held_bytes(const LinearBackward& a) const {
  return a.bias_gradient.size() > 0 ? BiasGradients::held_bytes(a.bias_gradient.columns) : 0;
}

void CudaModelOperators::tune(bool on) { context_.matmul_plans().tune(on); }

void CudaModelOperators::reserve_scratch(int64_t scratch_bytes, int64_t held_bytes) {
  context_.matmul_plans();  // with the memory that products keep
  context_.workspace(scratch_bytes - MatmulPlans::kWorkspaceBytes);
  bias_gradients_.forget();
  bias_gradients_.reserve(held_bytes);
}

}  // namespace cbtm::cuda
