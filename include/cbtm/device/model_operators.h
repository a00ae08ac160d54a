#pragma once

#include <cstdint>

#include "cbtm/device/attention_operands.h"
#include "cbtm/device/embedding_operands.h"
#include "cbtm/device/layernorm_operands.h"
#include "cbtm/device/linear_operands.h"
#include "cbtm/device/output_operands.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

/// What the scratch memory of a model's operators depends on.
struct WorkspaceShape {
  int64_t rows = 0;             ///< tokens of a micro-batch
  int64_t sequence_length = 0;  ///< tokens of its longest sequence
  int64_t head_dim = 0, hidden_size = 0, ffn_dim = 0, vocab_size = 0;
};

/// The operators that models are computed with, forward and backward, over views of a device's memory
/// (Device::model_operators). They run in the order of the calls, the same calls give the same bits on the same device,
/// and they take the types for which Device::computes_in is true.
class ModelOperators {
 public:
  virtual ~ModelOperators() = default;

  virtual void embedding_forward(const EmbeddingForward& arguments) = 0;
  virtual void embedding_backward(const EmbeddingBackward& arguments) = 0;
  virtual void gather_rows(const GatherRows& arguments) = 0;
  virtual void residual_layernorm_forward(const ResidualLayerNormForward& arguments) = 0;
  virtual void residual_layernorm_backward(const ResidualLayerNormBackward& arguments) = 0;
  virtual void linear_forward(const LinearForward& arguments) = 0;
  virtual void linear_backward(const LinearBackward& arguments) = 0;
  virtual void attention_forward(const AttentionForward& arguments) = 0;
  virtual void attention_backward(const AttentionBackward& arguments) = 0;
  virtual void attention_cached(const AttentionCached& arguments) = 0;
  virtual void output_loss(const OutputLoss& arguments) = 0;
  virtual void mixture_log_probabilities(const MixtureLogProbabilities& arguments) = 0;
  virtual void sample_mixture(const SampleMixture& arguments) = 0;

  /// Ends a backward pass: until then a device may hold bias gradients back, to add all of them at once.
  virtual void finish_backward() {}

  /// Bytes a row that linear_forward saves of an activation over `columns` values of `dtype` for its backward pass
  /// (LinearForward::saved); 0: the device wants none.
  virtual int64_t saved_activation_columns(Activation activation, DType dtype, int64_t columns) const = 0;

  /// Scratch memory the operators need at most for these shapes; the planner counts it. Operators take it from
  /// the device's own arena, which grows outside of steps only.
  virtual int64_t workspace_bytes(const WorkspaceShape& shape) const = 0;
};

}  // namespace cbtm
