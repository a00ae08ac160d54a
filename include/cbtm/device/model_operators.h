#pragma once

#include <cstdint>

#include "cbtm/device/attention_operands.h"
#include "cbtm/device/embedding_operands.h"
#include "cbtm/device/layernorm_operands.h"
#include "cbtm/device/linear_operands.h"
#include "cbtm/device/moe_operands.h"
#include "cbtm/device/output_operands.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

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

  // Mixtures of experts (cbtm/device/moe_operands.h). A device without them throws Error.
  /// Whether this device has the operators below.
  virtual bool has_expert_operators() const { return false; }
  virtual void route_tokens(const RouteTokens& arguments);
  virtual void route_tokens_backward(const RouteTokensBackward& arguments);
  virtual void gather_expert_rows(const GatherExpertRows& arguments);
  virtual void scatter_expert_rows(const ScatterExpertRows& arguments);
  virtual void expert_linear_forward(const ExpertLinearForward& arguments);
  virtual void expert_linear_backward(const ExpertLinearBackward& arguments);
  virtual void combine_expert_rows(const CombineExpertRows& arguments);
  virtual void combine_expert_rows_backward(const CombineExpertRowsBackward& arguments);

  /// Tells the sequences of the next pass, for the device to lay them out once for the attention of all layers. Returns
  /// the number of the layout. If a pass has run and another one of as many rows gets the same number, then its
  /// operators are launched in the same way, and a record of them (Device::record) runs for the other pass. Not needed:
  /// attention lays out what has not been laid out.
  virtual int64_t lay_out_sequences(const PassSequences& sequences) {
    static_cast<void>(sequences);
    return 0;
  }

  /// Whether rows with RowSums::prompt have the same bits whatever rows are beside them.
  virtual bool prompt_rows_independent() const = 0;

  /// Whether the device tries several ways of an operator and keeps the fastest. Then the first pass of a training is
  /// run twice, the first time with tune(true): operators may then leave any values in what they write or add to, so
  /// gradients are zeroed afterwards. Nothing may be exchanged between devices meanwhile.
  virtual bool tunes() const { return false; }
  virtual void tune(bool on) { static_cast<void>(on); }

  /// Ends a backward pass: until then a device may hold bias gradients back, to add all of them at once.
  virtual void finish_backward() {}

  /// Bytes a row that linear_forward saves of an activation over `columns` values of `dtype` for its backward pass
  /// (LinearForward::saved); 0: the device wants none.
  virtual int64_t saved_activation_columns(Activation activation, DType dtype, int64_t columns) const = 0;

  /// Scratch memory that an operator takes at most for operands of these shapes and types, with what the device keeps
  /// for its products. Their data may be null: an operand of no elements is one that is not given. Fewer rows take no
  /// more. All operators share one piece; those without such a function take none that counts.
  virtual int64_t scratch_bytes(const EmbeddingBackward& arguments) const = 0;
  virtual int64_t scratch_bytes(const ResidualLayerNormBackward& arguments) const = 0;
  virtual int64_t scratch_bytes(const LinearForward& arguments) const = 0;
  virtual int64_t scratch_bytes(const LinearBackward& arguments) const = 0;
  virtual int64_t scratch_bytes(const AttentionForward& arguments) const = 0;
  virtual int64_t scratch_bytes(const AttentionBackward& arguments) const = 0;
  virtual int64_t scratch_bytes(const OutputLoss& arguments) const = 0;
  virtual int64_t scratch_bytes(const RouteTokens& arguments) const;
  virtual int64_t scratch_bytes(const RouteTokensBackward& arguments) const;
  virtual int64_t scratch_bytes(const ExpertLinearForward& arguments) const;
  virtual int64_t scratch_bytes(const ExpertLinearBackward& arguments) const;
  /// Memory that linear_backward takes until finish_backward, beside the scratch memory: a pass takes the sum.
  virtual int64_t held_bytes(const LinearBackward& arguments) const {
    static_cast<void>(arguments);
    return 0;
  }
  /// Takes that much of either now, so that none is asked for later, and forgets what linear_backward holds of a pass
  /// that an error ended: call it before the first pass of a training. Throws Error like Device::allocate. By default
  /// operators take what they need when they run.
  virtual void reserve_scratch(int64_t scratch_bytes, int64_t held_bytes) {
    static_cast<void>(scratch_bytes);
    static_cast<void>(held_bytes);
  }
};

}  // namespace cbtm
