// What a training goes on from: its last state and metrics.jsonl. The part "state.safetensors" is a whole state; from
// "training.json" (the counters) and "weights" a state with the right hash is made, as mutations never hit one.

#include "train/training_state.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cbtm/base/hash.h"
#include "cbtm/base/threads.h"
#include "cbtm/base/utf8.h"
#include "cbtm/model/training_model.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"
#include "tests/opt_shape.h"
#include "train/metrics_log.h"

namespace cbtm::fuzz {
namespace {

const ModelSpec& shape() {
  static const ModelSpec spec = OptShape{.vocab_size = 4,
                                         .hidden_size = 4,
                                         .num_hidden_layers = 1,
                                         .num_attention_heads = 1,
                                         .ffn_dim = 4,
                                         .max_position_embeddings = 4,
                                         .word_embed_proj_dim = 4};
  return spec;
}

/// One model for all inputs: making it takes longer than reading a state.
DataParallelModel& model() {
  static const std::unique_ptr<Device> device = (set_thread_count(1), make_cpu_device());
  static Device* const devices[] = {device.get()};
  static const std::vector<float> parameters = initial_parameters(shape(), 1);
  static DataParallelModel model(devices, shape(), parameters, 4, Keep::everything, DType::f32, false);
  return model;
}

void write_state(const std::filesystem::path& path, const std::string& training, const std::string& weights) {
  if (find_invalid_utf8(training) != std::string_view::npos) return;  // no state can hold it
  const int64_t count = model().layout().flat_size();
  std::vector<float> values(static_cast<size_t>(count));
  if (!weights.empty()) std::memcpy(values.data(), weights.data(), std::min(weights.size(), values.size() * 4));
  std::vector<OutputTensor> tensors;
  StreamingHash hash;
  for (const char* name : {"weights", "first_moments", "second_moments"}) {
    tensors.push_back({name, StoredType::f32, {count}, values.data()});
    hash.update(values.data(), values.size() * 4);
  }
  hash.update(training);
  write_safetensors(path, tensors, {{"training", training}, {"hash", hash.hex()}});
}

void read(std::string_view input) {
  const InputFiles files(input, {"metrics.jsonl"});
  const std::filesystem::path metrics = files / "metrics.jsonl";
  if (std::filesystem::exists(metrics)) {
    read_metrics(metrics);
    MetricsLog(metrics, /*last_step=*/3).add({{"step", 4}});
  }
  if (const std::string state = part_or(input, "state.safetensors", ""); !state.empty())
    files.write("state-00000007.safetensors", state);
  if (const std::string training = part_or(input, "training.json", ""); !training.empty())
    write_state(files / "state-00000006.safetensors", training, part_or(input, "weights", ""));
  const Json identity = {{"seed", "hash"}, {"settings", {{"learning_rate", 0.5}}}};
  has_other_training_state(files.path(), identity);
  load_training_state(files.path(), model(), identity);
}

const Registration kRegistration{{"training_state", read, repair_parts}};

}  // namespace
}  // namespace cbtm::fuzz
