#include "plan/fitting.h"

#include <fmt/format.h>

#include "cbtm/base/memory.h"
#include "cbtm/model/families.h"
#include "cbtm/model/preset_names.h"

namespace cbtm {
namespace {

/// The least memory with micro-batches of so many sequences, if it fits.
std::optional<TrainingMemory> least_memory(std::span<Device* const> devices, const ModelSpec& model,
                                           const TrainingSettings& settings, const HostMemory& host,
                                           int64_t sequences) {
  return training_memory(devices, model,
                         {.rows = sequences * settings.sequence_length,
                          .sequence_length = settings.sequence_length,
                          .dtype = resolve_precision(settings.precision, devices),
                          .host_bytes = host.bytes,
                          .host_bytes_present = host.present},
                         settings.memory_bytes, Keep::block_inputs);
}

}  // namespace

std::string what_would_fit(std::span<Device* const> devices, const ModelSpec& model, const TrainingSettings& settings,
                           const HostMemory& host) {
  for (int64_t sequences = settings.batch_sequences; sequences >= 1; sequences /= 2)
    if (const auto memory = least_memory(devices, model, settings, host, sequences))
      return fmt::format("--micro-batch {} would fit, with {}", sequences, format_bytes(memory->total()));
  std::string fitting;
  for (const std::string& name : model_preset_names()) {  // from small to large
    ModelSpec preset = model_preset(name);
    preset.embedding.vocab_size = model.embedding.vocab_size;
    if (preset.embedding.max_length >= settings.sequence_length &&
        least_memory(devices, preset, settings, host, 1).has_value())
      fitting = name;
  }
  return fitting.empty() ? "no preset would fit" : fmt::format("--preset {} would fit", fitting);
}

}  // namespace cbtm
