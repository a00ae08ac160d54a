#pragma once

#include <cstdint>
#include <span>

#include "cbtm/device/device.h"
#include "cbtm/model/training_model.h"
#include "cbtm/train/trainer.h"

namespace cbtm {

/// How a training cuts its batch, and the memory that this takes on each device.
struct ChosenShape {
  int64_t micro_batch_sequences = 1;
  TrainingMemory memory;
};

/// Memory of the host that a training takes beside its tensors; all 0 where a device has memory of its own.
struct HostMemory {
  int64_t bytes = 0;    ///< as of TrainingShape::host_bytes
  int64_t present = 0;  ///< as of TrainingShape::host_bytes_present
};

/// Of a training on `devices` whose order of documents takes `order_bytes`. Starts the threads.
HostMemory training_host_memory(std::span<Device* const> devices, int64_t order_bytes);

/// Micro-batches as large as the devices gain from, where all activations can still be kept; as the settings say, if
/// they do; or those of a saved state (`saved_sequences`, 0: there is none). Then the memory that recomputes least.
/// Throws Error that says what is missing, as plan_training_memory does.
ChosenShape choose_training_shape(std::span<Device* const> devices, const ModelSpec& spec,
                                  const TrainingSettings& settings, const HostMemory& host,
                                  int64_t saved_sequences = 0);

}  // namespace cbtm
