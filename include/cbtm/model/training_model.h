#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {

/// What of a layer is computed again in the backward pass instead of being kept.
enum class Recompute : uint8_t { nothing, ffn, layers };

/// Bytes that training one micro-batch of `rows` tokens takes, by use.
struct TrainingMemory {
  Recompute recompute = Recompute::nothing;
  int64_t weights = 0;  ///< also of gradients
  int64_t gradients = 0;
  int64_t moments = 0;
  int64_t activations = 0;
  int64_t workspace = 0;

  int64_t total() const { return weights + gradients + moments + activations + workspace; }
  /// A table for people, a line a use.
  std::string description() const;
};

/// The plan that recomputes least and still fits `budget_bytes`. Throws Error that says what is missing and which flags
/// to turn if even recomputing all does not fit.
TrainingMemory plan_training_memory(const Device& device, const OptConfig& config, int64_t rows, int64_t budget_bytes);

/// Weights for training from scratch, layout order: N(0, init_std²); out_proj and fc2 scaled by 1 / sqrt(2 layers); row
/// 1 (pad) of embed_tokens, biases 0; norms 1 and 0 (shared/reference/opt-format.md section 7).
std::vector<float> initial_parameters(const OptConfig& config, uint64_t seed);

struct BackwardOptions {
  float gradient_scale = 1;     ///< gradients of gradient_scale * Σ loss are added: 1 / targets of the global batch
  float dropout = 0;            ///< of attention probabilities and both residual branches
  uint64_t seed = 0;            ///< of the dropout
  uint32_t step = 0;            ///< of the dropout
  int64_t first_row = 0;        ///< number of this micro-batch's first row within the global batch
  int64_t dropout_columns = 0;  ///< longest sequence of the run, rounded up to a multiple of 4
};

struct OptimizerOptions {
  int64_t step = 1;  ///< counts from 1
  float learning_rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float epsilon = 1e-8f;
  float weight_decay = 0;
  float clip_norm = 0;  ///< 0: never
};

/// An OPT model in training: weights, gradients and moments in flat buffers on the device, forward and backward
/// (shared/reference/opt-format.md sections 3, 4, 6). Not thread-safe.
class TrainingModel {
 public:
  /// `parameters` in layout order. Micro-batches have at most `rows` tokens.
  TrainingModel(Device& device, const OptConfig& config, std::span<const float> parameters, int64_t rows,
                Recompute recompute);
  ~TrainingModel();

  const OptConfig& config() const;
  const ParameterLayout& layout() const;
  /// Adds the gradients of a micro-batch; returns Σ loss (nats) over its targets. targets[r] follows the tokens up to
  /// row r of its sequence; -100 is not scored. Ids are checked by the caller.
  double accumulate_gradients(const PackedTokens& tokens, std::span<const int32_t> targets,
                              const BackwardOptions& options);
  /// Σ loss without dropout or gradients.
  double loss_sum(const PackedTokens& tokens, std::span<const int32_t> targets);
  /// AdamW with the accumulated gradients, which become zero. Returns their norm before clipping; if it is not finite
  /// the weights stay as they are.
  double optimizer_step(const OptimizerOptions& options);

  /// The flat buffers, for reading (checkpoints, tests) and restoring. float32 [1, flat_size] on the device.
  TensorView weights() const;
  TensorView gradients() const;
  TensorView first_moments() const;
  TensorView second_moments() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cbtm
