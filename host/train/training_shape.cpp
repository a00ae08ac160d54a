#include "cbtm/train/training_shape.h"

#include <algorithm>

#include "cbtm/base/memory.h"
#include "cbtm/base/threads.h"
#include "train/batches.h"

namespace cbtm {
namespace {

/// What writing states, metrics and the model takes beside the weights: buffers, the tokenizer.
constexpr int64_t kSavingBytes = int64_t{8} << 20;
/// Micro-batches of fewer tokens are not chosen to keep more activations.
constexpr int64_t kRowsMin = 4096;

}  // namespace

HostMemory training_host_memory(std::span<Device* const> devices, int64_t order_bytes) {
  const Device& device = *devices.front();
  if (device.host_readable(&device) == nullptr) return {};
  parallel_ranges(thread_count(), 1e6, [](int64_t, int64_t) {});  // the threads' stacks are there from now on
  const int64_t present = own_memory_bytes();
  return {.bytes = present + order_bytes + kSavingBytes, .present = present};
}

ChosenShape choose_training_shape(std::span<Device* const> devices, const ModelSpec& spec,
                                  const TrainingSettings& settings, const HostMemory& host, int64_t saved_sequences) {
  const int64_t length = settings.sequence_length;
  const auto sequences_of = [&](int64_t rows) {
    return choose_micro_batch(settings, static_cast<int64_t>(devices.size()), std::max<int64_t>(1, rows / length));
  };
  TrainingShape shape{.sequence_length = length,
                      .dtype = resolve_precision(settings.precision, devices),
                      .host_bytes = host.bytes,
                      .host_bytes_present = host.present};
  int64_t rows = devices.front()->micro_batch_rows();
  if (saved_sequences > 0)
    rows = saved_sequences * length;
  else
    for (; rows > kRowsMin; rows = std::max(rows / 2, kRowsMin)) {
      shape.rows = sequences_of(rows) * length;
      if (training_memory(devices, spec, shape, settings.memory_bytes, Keep::everything)) break;
    }
  ChosenShape chosen{.micro_batch_sequences = sequences_of(rows)};
  shape.rows = chosen.micro_batch_sequences * length;
  chosen.memory = plan_training_memory(devices, spec, shape, settings.memory_bytes);
  return chosen;
}

}  // namespace cbtm
