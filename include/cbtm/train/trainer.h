#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "cbtm/model/spec.h"
#include "cbtm/model/training_model.h"

namespace cbtm {

/// How one model is trained. Fields without (*) change the result and are checked when a training goes on.
struct TrainingSettings {
  int64_t steps = 0;
  int64_t sequence_length = 256;   ///< tokens
  int64_t batch_sequences = 1;     ///< sequences of one step
  double learning_rate = 2e-4;     ///< peak
  int64_t warmup_steps = 0;        ///< linear, from 0
  double final_learning_rate = 0;  ///< at the last step, as a fraction of the peak; linear decay after the warm-up
  double dropout = 0.1;
  double weight_decay = 0;
  double clip_norm = 1;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-6;
  bool attention_within_document = false;  ///< tokens see only their own document
  std::string precision = "auto";  ///< of activations and working weights: float32, bf16, fp16, or the device's own
  uint64_t seed = 1234;
  int64_t micro_batch_sequences = 0;  ///< (*) sequences at a time; 0: chosen; results differ by rounding only
  int64_t save_every = 200;           ///< (*) steps
  int64_t keep = 2;                   ///< (*) states kept
  int64_t validate_every = 0;         ///< (*) steps; 0: ten times in a run
  int64_t memory_bytes = 0;           ///< (*) may be used; 0: what is free
  bool record_passes = true;          ///< (*) run a step's micro-batches as CUDA graphs, where the device is a GPU
  int64_t snapshots = 0;              ///< (*) models kept along the way, at equal distances
};
Json training_settings_json(const TrainingSettings& settings);

/// The type of "auto", "float32", "bf16" or "fp16" on a device. Throws a usage Error if the device does not train in
/// it.
DType resolve_precision(const std::string& precision, const Device& device);
/// The same for devices that train together. Throws a usage Error if they come to different types.
DType resolve_precision(const std::string& precision, std::span<Device* const> devices);

/// Throws a usage Error if these devices cannot train such a model with these settings: a precision that they lack,
/// more devices than sequences in a batch, or sequences longer than the model's positions.
void check_training_settings(std::span<Device* const> devices, const ModelSpec& spec, const TrainingSettings& settings);

/// The learning rate of step 1..steps: optional linear warm-up, then linear decay to the last step (docs/method.md,
/// 'Training').
double learning_rate_at(const TrainingSettings& settings, int64_t step);

/// The data, the start and the working directory of one training.
struct TrainingJob {
  std::string name;  ///< for people: "expert 003"
  ModelSpec spec;
  std::vector<std::filesystem::path> train_prefixes;     ///< indexed datasets
  std::vector<std::filesystem::path> held_out_prefixes;  ///< documents for the running validation loss
  std::filesystem::path work_directory;                  ///< states and metrics.jsonl while it runs
  Json identity;  ///< hashes of the start; a saved state with other hashes is refused
  /// Called with snapshot 1 .. settings.snapshots and its weights (layout order) as training passes it. A training that
  /// goes on after an interruption may call it again for the same snapshot. The weights may be the model's own: they
  /// are valid only during the call.
  std::function<void(int64_t number, std::span<const float> parameters)> snapshot;
};

/// The weights of a trained model in host memory, in layout order. If the host can read the model's memory they are not
/// copied, and the model lives as long as this object.
class TrainedWeights {
 public:
  TrainedWeights() = default;
  /// `owner` holds the memory of `values`.
  TrainedWeights(std::span<const float> values, std::shared_ptr<const void> owner)
      : values_(values), owner_(std::move(owner)) {}
  explicit TrainedWeights(std::vector<float> values)
      : TrainedWeights(std::make_shared<const std::vector<float>>(std::move(values))) {}

  const float* data() const { return values_.data(); }
  size_t size() const { return values_.size(); }
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }
  const float& operator[](size_t place) const { return values_[place]; }
  friend bool operator==(const TrainedWeights& a, const TrainedWeights& b) { return std::ranges::equal(a, b); }

 private:
  explicit TrainedWeights(std::shared_ptr<const std::vector<float>> values)
      : values_(*values), owner_(std::move(values)) {}

  std::span<const float> values_;
  std::shared_ptr<const void> owner_;
};

struct TrainingResult {
  TrainedWeights parameters;
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t skipped_steps = 0;  ///< loss or gradient was not finite
  double loss = 0;            ///< mean of the last tenth of the steps
  double validation_loss = 0;
  double seconds = 0;         ///< wall-clock of the steps, resumed ones included
  double device_seconds = 0;  ///< the same times the devices of each attempt; NaN if an older state did not say
};

/// Trains to the end, from `start` or from the last good state in the work directory, and returns the result. The
/// caller stores it and then calls forget_training_state.
///
/// A state is written as AtomicFile does, and checked by a hash when it is read. After a stop signal the state is
/// saved, and Error with kExitInterrupted is thrown. The same settings, machine and devices give bitwise the same
/// result, however often the training was interrupted and for every number of threads. Several devices share the
/// micro-batches of each step. Their number may change between two attempts; it changes the result only by the rounding
/// of sums.
TrainingResult train_model(std::span<Device* const> devices, const TrainingJob& job, const TrainingSettings& settings,
                           const ParameterSource& start);

/// Removes the work directory of a finished training, and its parent if that is then empty.
void forget_training_state(const std::filesystem::path& work_directory);
/// Removes it if its state belongs to another training (other settings, or another start).
void forget_other_training_state(std::span<Device* const> devices, const TrainingJob& job,
                                 const TrainingSettings& settings);

}  // namespace cbtm
