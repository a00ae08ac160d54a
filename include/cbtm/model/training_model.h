#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cbtm/device/collectives.h"
#include "cbtm/device/device.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/keep.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"

namespace cbtm {

/// Bytes that training takes on a device, by use. On the processor this is all that the process takes while it trains,
/// saves states and writes the model, to within 5 percent. Files that are mapped into memory (shards, a checkpoint
/// that is read, the state that is gone on from) are not counted: the system takes their pages back when it needs room.
struct TrainingMemory {
  Keep keep = Keep::everything;
  int64_t weights = 0;  ///< float32, and the working copy of another type
  int64_t gradients = 0;
  int64_t moments = 0;
  int64_t activations = 0;
  int64_t workspace = 0;
  /// Where the device's memory is the host's: the program itself, the order of the documents, what saving takes.
  int64_t host = 0;

  int64_t total() const { return weights + gradients + moments + activations + workspace + host; }
  /// For people: a line for each use, without a newline at the end.
  std::string table() const;
};

/// What a training plans with.
struct TrainingShape {
  int64_t rows = 0;                ///< tokens of a micro-batch
  int64_t sequence_length = 0;     ///< tokens of its longest sequence
  DType dtype = DType::f32;        ///< of activations and working weights
  int64_t host_bytes = 0;          ///< as of TrainingMemory::host
  int64_t host_bytes_present = 0;  ///< of those, what the process holds already: no longer free
};

/// The plan for each of `devices`, which train together, that keeps so much, or nothing if it does not fit what is free
/// on the fullest of them, or `budget_bytes` if that is less and not 0.
std::optional<TrainingMemory> training_memory(std::span<Device* const> devices, const ModelSpec& spec,
                                              const TrainingShape& shape, int64_t budget_bytes, Keep keep);
/// The plan for each of `devices`, which train together, that recomputes least and still fits what is free on the
/// fullest of them, or `budget_bytes` if that is less and not 0. Recomputing changes memory and speed, not a bit of the
/// result. Throws Error that says what is missing and which flags to turn if even recomputing all does not fit.
TrainingMemory plan_training_memory(std::span<Device* const> devices, const ModelSpec& spec, const TrainingShape& shape,
                                    int64_t budget_bytes);

/// Fills `weights` (ParameterLayout(spec), flat_size, zeros so far) with what a training starts from.
using ParameterSource = std::function<void(std::span<float> weights)>;

/// Weights for training from scratch, layout order: N(0, initial_deviation²); those that feed the residual scaled by
/// 1 / sqrt(2 layers); the token table's row of the pad token, biases 0; norms 1 and 0 (docs/opt-format.md,
/// 'Initialisation').
std::vector<float> initial_parameters(const ModelSpec& spec, uint64_t seed);
/// The same, into memory that is there.
ParameterSource initial_weights(const ModelSpec& spec, uint64_t seed);

struct BackwardOptions {
  /// Gradients of gradient_scale * Σ loss are added: 1 / targets of the global batch. With mixtures of experts also
  /// those of gradient_scale * tokens * Σ over mixtures of balance_weight * balance loss.
  float gradient_scale = 1;
  float dropout = 0;            ///< of attention probabilities and both residual branches
  uint64_t seed = 0;            ///< of the dropout
  uint32_t step = 0;            ///< of the dropout
  int64_t first_row = 0;        ///< number of this micro-batch's first row within the global batch
  int64_t dropout_columns = 0;  ///< longest sequence of the run, rounded up to a multiple of 16
  /// No more micro-batches of the step follow on this device: of several, the exchange of gradients begins layer by
  /// layer behind the backward pass.
  bool completes_step = false;
};

/// What a step came to; NaN or infinite where the step was skipped.
struct StepResult {
  double loss_sum = 0;       ///< nats, over all targets of the step
  double gradient_norm = 0;  ///< before clipping; NaN if a micro-batch's loss was not finite
  /// What the routers of the mixtures did (cbtm/model/layer_routing.h); none without mixtures.
  std::vector<double> routing_statistics;
};

struct OptimizerOptions {
  int64_t step = 1;  ///< counts from 1
  float learning_rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float epsilon = 1e-8f;
  float weight_decay = 0;
  float clip_norm = 0;   ///< 0: never
  float loss_scale = 1;  ///< what the step's gradient_scale holds beyond 1 / targets; divided out again
};

/// A model in training: weights, gradients and moments in flat float32 buffers on the device, forward and backward
/// (docs/opt-format.md, 'Forward pass'). With another dtype than float32, activations and a working copy of the weights
/// are of that type, and the optimizer rounds the working copy anew with every step. Not thread-safe.
///
/// Several devices train one model together as a TrainingModel each, with the Collectives of a group: each adds the
/// gradients of its own micro-batches, and all finish a step together; constructor, finish_step, restore and
/// weights_changed wait for the other devices, so each model has a thread. Results differ from those of one device only
/// by the rounding of sums.
class TrainingModel {
 public:
  /// `parameters` in layout order; or none: all weights are 0, until weights_on_host() or restore() has given others.
  /// Micro-batches have at most `rows` tokens. `group`: null for one device alone.
  TrainingModel(Device& device, const ModelSpec& spec, std::span<const float> parameters, int64_t rows, Keep keep,
                DType dtype = DType::f32, Collectives* group = nullptr);
  ~TrainingModel();

  const ModelSpec& spec() const;
  const ParameterLayout& layout() const;
  /// Adds the gradients of a micro-batch; returns Σ loss (nats) over its targets. targets[r] follows the tokens up to
  /// row r of its sequence; -100 is not scored. Ids are checked by the caller.
  double accumulate_gradients(const PackedTokens& tokens, std::span<const int32_t> targets,
                              const BackwardOptions& options);
  /// The same without waiting for the device: the loss is in the step's result. The experts of a mixture take as many
  /// choices of a micro-batch's tokens as they would get if these were spread evenly, and drop the others.
  void add_gradients(const PackedTokens& tokens, std::span<const int32_t> targets, const BackwardOptions& options);
  /// AdamW with the gradients added since the last step (on all devices), which become zero, and what came of it:
  /// loss_sum is of this device's micro-batches. If a loss or the norm is not finite the weights stay as they are, on
  /// all devices. Waits for the device.
  StepResult finish_step(const OptimizerOptions& options);
  /// Σ loss without dropout or gradients; a mixture drops nothing.
  double loss_sum(const PackedTokens& tokens, std::span<const int32_t> targets);
  /// finish_step for those who have the losses: returns the norm.
  double optimizer_step(const OptimizerOptions& options);
  /// Starts to copy weights and moments (flat_size each) to the host, beside what is called next; the next optimizer
  /// step waits for it. Of several devices each copies its share.
  std::shared_ptr<HostCopy> start_snapshot(std::span<float> weights, std::span<float> first_moments,
                                           std::span<float> second_moments);
  /// Whether add_gradients records its operators at the second micro-batch of a shape and runs the record from then on
  /// (a CUDA graph: one launch a micro-batch). Does nothing on a device that cannot. The results are the same bits.
  void record_passes(bool wanted);
  /// Copies the weights (flat_size) to the host; of several devices each copies its share.
  void read_weights(std::span<float> weights) const;
  /// The weights where they lie, layout order, if the host can reach them there and the device trains alone; else
  /// empty. Who writes to them calls weights_changed().
  std::span<float> weights_on_host();
  /// Takes weights and moments (flat_size each, in memory of the host); null pointers: those stay as they are.
  void restore(const float* weights, const float* first_moments, const float* second_moments);
  /// To be called after weights() has been written to: rounds the working copy anew.
  void weights_changed();

  /// The flat buffers on the device, for checkpoints and tests. float32 [1, flat_size]; of several devices the share.
  TensorView weights() const;
  TensorView gradients() const;
  TensorView first_moments() const;
  TensorView second_moments() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cbtm
