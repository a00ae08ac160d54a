#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>

#include "cbtm/base/json.h"
#include "cbtm/train/data_parallel_model.h"
#include "train/loss_scale.h"

namespace cbtm {

/// Where a training stands after `step` steps, beside the tensors.
struct TrainingCounters {
  int64_t step = 0;
  int64_t optimizer_steps = 0;  ///< without the skipped ones
  int64_t skipped_steps = 0;
  double seconds = 0;
  double device_seconds = 0;  ///< NaN: an older cbtm did not count them
  LossScale loss_scale;
  int64_t micro_batch_sequences = 0;  ///< of the run that saved it; 0: an older cbtm did not say
};

/// Writes work_directory/state-STEP.safetensors (weights, moments, counters, identity, hash) and removes all but the
/// last `keep`. `tensors`: weights, first and second moments in memory of the host, `count` floats each.
void write_training_state(const std::filesystem::path& work_directory, const std::array<const float*, 3>& tensors,
                          int64_t count, const TrainingCounters& counters, const Json& identity, int64_t keep);

/// True if the last state that can be read belongs to another training.
bool has_other_training_state(const std::filesystem::path& work_directory, const Json& identity);

/// TrainingCounters::micro_batch_sequences of the last state that can be read, or 0. A training that goes on with other
/// micro-batches adds up its gradients in another order.
int64_t saved_micro_batch(const std::filesystem::path& work_directory);

/// Loads the last state that is whole into `model`; damaged ones are named on stderr and passed over, what a killed
/// save left half-written is removed. Nothing if there is none. Throws Error if the state belongs to other settings.
std::optional<TrainingCounters> load_training_state(const std::filesystem::path& work_directory,
                                                    DataParallelModel& model, const Json& identity);

}  // namespace cbtm
