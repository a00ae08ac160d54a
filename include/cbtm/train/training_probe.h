#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/train/data_parallel_model.h"

namespace cbtm {

/// `count` token ids below `vocab_size`, uniform.
std::vector<int32_t> random_tokens(int64_t count, int64_t vocab_size, uint64_t seed);

/// Optimizer steps on random tokens, to be timed.
struct ProbeShape {
  int64_t vocab_size = 0;
  int64_t sequence_length = 0;
  int64_t micro_batch_sequences = 1;
  int64_t micro_batches = 1;  ///< of a step, over all devices
  double dropout = 0;
  uint64_t seed = 1234;

  int64_t micro_batch_tokens() const { return sequence_length * micro_batch_sequences; }
  int64_t step_tokens() const { return micro_batches * micro_batch_tokens(); }
};

struct StepSeconds {
  double gradients = 0;  ///< forward and backward passes; 0 if they were not waited for
  double whole = 0;
};

/// Takes optimizer step `number` (from 0; other numbers draw other tokens) with a learning rate at which nothing
/// diverges, and times it. With `wait_for_gradients` the device is waited for before the update, so that both can be
/// told apart; of several devices it is not. The model's micro-batches must be at least as large as the shape's.
StepSeconds time_training_step(std::span<Device* const> devices, DataParallelModel& model, const ProbeShape& shape,
                               int64_t number, bool wait_for_gradients);

/// Seconds of a forward pass over one micro-batch, without dropout, with the loss of each token.
double time_scoring(DataParallelModel& model, const ProbeShape& shape, int64_t number);

}  // namespace cbtm
