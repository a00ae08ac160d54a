#pragma once

#include <span>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/model/training_model.h"
#include "model/activations.h"
#include "model/model_weights.h"
#include "model/training_parameters.h"

namespace cbtm {

/// Forward and backward pass of one micro-batch (docs/opt-format.md, 'Forward pass'): load, forward, loss, and, with
/// gradients, backward.
class GradientPass {
 public:
  /// Micro-batches have at most `rows` tokens; `dtype`: of the activations.
  GradientPass(Device& device, const OptConfig& config, int64_t rows, Recompute recompute, DType dtype,
               TrainingParameters& parameters);
  /// Bytes on the device beside the activations.
  static int64_t token_bytes(int64_t rows);

  /// `options`: null without gradients. `dropout_place`: the dropout's step and first row are read on the device when
  /// the pass runs, so that it can be recorded.
  void load(const PackedTokens& tokens, std::span<const int32_t> targets, const BackwardOptions* options,
            bool dropout_place);
  void forward();
  /// total (float64 [1, 1]) = Σ loss over the targets.
  void loss(TensorView total);
  /// Adds the gradients to those of the parameters; with options.completes_step their exchange begins layer by layer.
  void backward();

 private:
  TensorView cut(TensorView whole) const;
  Dropout dropout(int64_t layer, uint32_t site) const;
  AttentionShape attention_shape(int64_t layer) const;
  ConstTensorView layer_input(int64_t layer) const;
  TensorView final_hidden() const;
  void embed();
  void attention_block(int64_t layer, ConstTensorView input);
  void ffn_hidden(int64_t layer, ConstTensorView input);
  void layer_forward(int64_t layer, bool again);
  void layer_backward(int64_t layer);
  void embed_backward();

  Device& device_;
  ModelOperators& operators_;
  const OptConfig& config_;
  int64_t rows_;
  Recompute recompute_;
  TrainingParameters& parameters_;
  Activations activations_;
  ModelTensors weight_tensors_, gradient_tensors_;
  DeviceBuffer token_buffer_;
  std::vector<int32_t> token_values_;
  Activation activation_;
  float scale_;

  // The micro-batch at work.
  int64_t batch_rows_ = 0;
  std::span<const int32_t> offsets_;
  ConstTensorView ids_, positions_, targets_;
  ConstTensorView dropout_place_;  ///< {options.step, options.first_row} on the device, or empty
  BackwardOptions options_;
  bool with_gradients_ = false;
};

}  // namespace cbtm
