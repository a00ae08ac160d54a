#pragma once

#include <span>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/training_model.h"
#include "model/network/pass.h"
#include "model/training_parameters.h"

namespace cbtm {

/// Forward and backward pass of one micro-batch of a training: load, forward, loss, and, with gradients, backward.
class TrainingPass {
 public:
  /// Micro-batches have at most `rows` tokens; `dtype`: of the activations.
  TrainingPass(Device& device, const ModelSpec& spec, int64_t rows, Keep keep, DType dtype,
               TrainingParameters& parameters);
  TrainingPass(const TrainingPass&) = delete;
  TrainingPass& operator=(const TrainingPass&) = delete;
  /// Bytes on the device beside the activations.
  static int64_t token_bytes(int64_t rows);

  /// `options`: null without gradients. `dropout_place`: the dropout's step and first row are read on the device when
  /// the pass runs, so that it can be recorded.
  void load(const PackedTokens& tokens, std::span<const int32_t> targets, const BackwardOptions* options,
            bool dropout_place);
  /// Of the sequences that were loaded (ModelOperators::lay_out_sequences).
  int64_t layout() const { return layout_; }
  void forward();
  /// total (float64 [1, 1]) = Σ loss over the targets.
  void loss(TensorView total);
  /// What the mixtures' routers did in the micro-batches with gradients, added up (Activations::statistics); empty
  /// without mixtures. Zero at first.
  TensorView routing_statistics() const { return activations_.statistics; }
  /// Adds the gradients to those of the parameters; with options.completes_step their exchange begins layer by layer.
  void backward();

 private:
  void fill_token_values(const PackedTokens& tokens, std::span<const int32_t> targets);

  Device& device_;
  const ModelSpec& spec_;
  int64_t rows_;
  TrainingParameters& parameters_;
  DeviceBuffer activation_buffer_, token_buffer_;
  Activations activations_;
  ModelTensors weights_, gradients_;
  std::vector<int32_t> token_values_;

  // The micro-batch at work.
  BackwardOptions options_;
  ConstTensorView targets_;
  int64_t layout_ = 0;
  Pass pass_;
};

}  // namespace cbtm
