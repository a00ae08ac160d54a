#pragma once

#include <cstdint>

#include "cbtm/device/device.h"
#include "cbtm/device/device_buffer.h"
#include "cbtm/model/key_value_pool.h"
#include "cbtm/model/memory_budget.h"
#include "cbtm/model/weight_streamer.h"

namespace cbtm {

/// Memory that operators of all models of one device use in turn.
struct ModelScratch {
  DeviceBuffer activations, losses, last_rows, numbers;
};

struct ModelMemoryStatistics {
  int64_t loads = 0;       ///< times that weights were brought to the device
  int64_t file_reads = 0;  ///< of those, from a file
  int64_t bytes = 0;       ///< weights and caches now
  int64_t bytes_max = 0;
  PromptCache prompt_cache;
};

/// What models of one device, which are used in turns, share: a budget for weights and key-value caches, the weights
/// and the caches that obey it, and scratch memory.
struct ModelMemory {
  /// `bytes`: for weights and caches, positive. `model_count`: models that will be added.
  ModelMemory(Device& device, int64_t bytes, int64_t model_count)
      : budget(bytes), weights(device, budget, model_count), caches(device, budget, weights) {}

  ModelMemoryStatistics statistics() const {
    return {.loads = weights.loads(),
            .file_reads = weights.file_reads(),
            .bytes = budget.used_bytes(),
            .bytes_max = budget.used_bytes_max(),
            .prompt_cache = caches.prompt_cache()};
  }

  MemoryBudget budget;
  WeightStreamer weights;
  KeyValuePool caches;
  ModelScratch scratch;
};

}  // namespace cbtm
