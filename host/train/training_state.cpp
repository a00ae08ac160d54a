#include "train/training_state.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/json_difference.h"
#include "cbtm/base/progress.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {
namespace {

constexpr const char* kTensorNames[] = {"weights", "first_moments", "second_moments"};

/// Hash of the tensors' bytes and of the text that belongs to them.
std::string state_hash(std::span<const void* const> data, size_t bytes, const std::string& text) {
  StreamingHash hash;
  for (const void* part : data) hash.update(part, bytes);
  hash.update(text);
  return hash.hex();
}

std::vector<std::filesystem::path> states_in(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> states;
  if (std::filesystem::is_directory(directory))
    for (const auto& entry : std::filesystem::directory_iterator(directory))
      if (entry.path().filename().string().starts_with("state-") && entry.path().extension() == ".safetensors")
        states.push_back(entry.path());
  std::sort(states.begin(), states.end(), std::greater<>());
  return states;
}

/// The identity and the counters that the text beside the tensors holds.
struct StateText {
  Json identity;
  TrainingCounters counters;
};

/// Throws Error that names the file and the counter: absent, of another type, or not a count.
StateText parse_state_text(const std::filesystem::path& path, const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) fail("{}: its counters are no JSON object", path.string());
  const auto member = [&](const char* key) -> const Json& {
    if (!json.contains(key)) fail("{}: '{}' is absent; an older cbtm wrote it", path.string(), key);
    return json[key];
  };
  const auto count = [&](const char* key) {
    const Json& value = member(key);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})
      fail("{}: '{}' is not a count", path.string(), key);
    return value.get<int64_t>();
  };
  const auto real = [&](const char* key, double lowest) {
    const Json& value = member(key);
    if (!value.is_number() || !(value.get<double>() >= lowest))
      fail("{}: '{}' is not a number of at least {}", path.string(), key, lowest);
    return value.get<double>();
  };
  return {.identity = member("identity"),
          .counters = {
              .step = count("step"),
              .optimizer_steps = count("optimizer_steps"),
              .skipped_steps = count("skipped_steps"),
              .seconds = real("seconds", 0),
              .device_seconds = json.contains("device_seconds") && !json["device_seconds"].is_null()
                                    ? real("device_seconds", 0)
                                    : std::numeric_limits<double>::quiet_NaN(),
              .loss_scale = {real("loss_scale", 1), count("loss_scale_steps")},
              .micro_batch_sequences = json.contains("micro_batch_sequences") ? count("micro_batch_sequences") : 0}};
}

/// Of the last state that can be read; the tensors are not looked at.
std::optional<StateText> last_state_text(const std::filesystem::path& work_directory) {
  for (const std::filesystem::path& path : states_in(work_directory)) {
    try {
      const TensorFile file = TensorFile::open(path);
      const auto text = file.metadata().find("training");
      if (text != file.metadata().end()) return parse_state_text(path, text->second);
    } catch (const Error&) {  // damaged: loading says so
    }
  }
  return std::nullopt;
}

/// Removes a file of ours; what cannot be removed is said and left.
void remove_file(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) warn(fmt::format("{}: cannot be removed: {}", path.string(), error.message()));
}

void remove_partial_files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> partial;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().filename().string().find(".partial-") != std::string::npos && entry.is_regular_file())
      partial.push_back(entry.path());
  for (const std::filesystem::path& path : partial) remove_file(path);
}

}  // namespace

void write_training_state(const std::filesystem::path& work_directory, const std::array<const float*, 3>& data,
                          int64_t count, const TrainingCounters& counters, const Json& identity, int64_t keep) {
  const std::string text = Json{{"identity", identity},
                                {"step", counters.step},
                                {"optimizer_steps", counters.optimizer_steps},
                                {"skipped_steps", counters.skipped_steps},
                                {"loss_scale", counters.loss_scale.value},
                                {"loss_scale_steps", counters.loss_scale.steps_since_change},
                                {"micro_batch_sequences", counters.micro_batch_sequences},
                                {"seconds", counters.seconds},
                                {"device_seconds", counters.device_seconds}}
                               .dump();
  const std::array<const void*, 3> parts = {data[0], data[1], data[2]};
  std::vector<OutputTensor> tensors;
  for (size_t i = 0; i < data.size(); ++i) tensors.push_back({kTensorNames[i], StoredType::f32, {count}, data[i]});
  write_safetensors(work_directory / fmt::format("state-{:08}.safetensors", counters.step), tensors,
                    {{"training", text}, {"hash", state_hash(parts, static_cast<size_t>(count) * 4, text)}});
  std::vector<std::filesystem::path> states = states_in(work_directory);
  for (size_t i = static_cast<size_t>(keep); i < states.size(); ++i) remove_file(states[i]);
}

bool has_other_training_state(const std::filesystem::path& work_directory, const Json& identity) {
  const std::optional<StateText> state = last_state_text(work_directory);
  return state && state->identity != identity;
}

int64_t saved_micro_batch(const std::filesystem::path& work_directory) {
  const std::optional<StateText> state = last_state_text(work_directory);
  return state ? state->counters.micro_batch_sequences : 0;
}

std::optional<TrainingCounters> load_training_state(const std::filesystem::path& work_directory,
                                                    DataParallelModel& model, const Json& identity) {
  remove_partial_files(work_directory);
  for (const std::filesystem::path& path : states_in(work_directory)) {
    try {
      const TensorFile file = TensorFile::open(path);
      const auto text = file.metadata().find("training");
      const auto hash = file.metadata().find("hash");
      if (text == file.metadata().end() || hash == file.metadata().end())
        fail("{}: not a training state", path.string());
      std::vector<const void*> data;
      const int64_t count = model.layout().flat_size();
      for (const char* name : kTensorNames) {
        const StoredTensor& tensor = file.at(name);
        if (tensor.type != StoredType::f32 || tensor.size() != count)
          fail("{}: '{}' has the wrong size", path.string(), name);
        data.push_back(tensor.data);
      }
      if (state_hash(data, static_cast<size_t>(count) * 4, text->second) != hash->second)
        fail("{}: its hash does not match its contents", path.string());
      const StateText state = parse_state_text(path, text->second);
      if (state.identity != identity) {
        const std::string difference = json_difference(state.identity, identity, ShownValues::both);
        throw Error(fmt::format("{}: an unfinished training with other settings ({}); finish it with those, or pass "
                                "--redo to start anew",
                                path.string(), difference),
                    kExitUsage);
      }
      model.restore(static_cast<const float*>(data[0]), static_cast<const float*>(data[1]),
                    static_cast<const float*>(data[2]));
      return state.counters;
    } catch (const Error& error) {
      if (error.exit_code() == kExitUsage) throw;
      warn(fmt::format("{}; trying the state before it", error.what()));
    }
  }
  return std::nullopt;
}

}  // namespace cbtm
