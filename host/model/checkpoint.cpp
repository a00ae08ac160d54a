#include "cbtm/model/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/json.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/threads.h"
#include "cbtm/model/expert_card.h"
#include "model/opt_tensors.h"
#include "tensor_file/finite_values.h"

namespace cbtm {

struct OptCheckpoint::State {
  std::filesystem::path path;
  OptConfig config;
  ParameterLayout layout;
  OptTensors tensors;
};

OptCheckpoint::OptCheckpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
OptCheckpoint::OptCheckpoint(OptCheckpoint&&) noexcept = default;
OptCheckpoint::~OptCheckpoint() = default;
const std::filesystem::path& OptCheckpoint::path() const { return state_->path; }
const OptConfig& OptCheckpoint::config() const { return state_->config; }
const ParameterLayout& OptCheckpoint::layout() const { return state_->layout; }

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += fmt::format("{}{}", axis == 0 ? "" : ", ", shape[axis]);
  return text + "]";
}

std::vector<int64_t> wanted_shape(const Parameter& parameter) {
  if (parameter.is_matrix) return {parameter.rows, parameter.columns};
  return {parameter.columns};
}

void check_tensors(const OptTensors& tensors, const ParameterLayout& layout, const OptConfig& config,
                   const std::string& where) {
  for (const Parameter& parameter : layout.parameters()) {
    const auto found = tensors.by_name.find(parameter.name);
    if (found == tensors.by_name.end()) {
      const auto unreadable = tensors.unreadable.find(parameter.name);
      if (unreadable == tensors.unreadable.end()) fail("{}: tensor '{}' is missing", where, parameter.name);
      fail("{}: tensor '{}' cannot be read: {}", where, parameter.name, unreadable->second);
    }
    const StoredTensor& tensor = found->second;
    if (!is_floating(tensor.type))
      fail("{}: tensor '{}' holds {}, but weights are F64, F32, F16 or BF16; convert it", where, tensor.name,
           tensor.type_name());
    const std::vector<int64_t> wanted = wanted_shape(parameter);
    if (tensor.shape == wanted) continue;
    if (parameter.name == "embed_positions.weight" && tensor.shape.size() == 2 &&
        tensor.shape[0] == config.max_position_embeddings)
      fail("{}: tensor '{}' has {} rows; OPT's has max_position_embeddings + 2 = {} (the offset of 2 was forgotten)",
           where, tensor.name, tensor.shape[0], wanted[0]);
    fail("{}: tensor '{}' has shape {}, but the config asks for {}", where, tensor.name, shape_text(tensor.shape),
         shape_text(wanted));
  }
}

template <typename Target, typename Source>
void convert(const std::byte* from, int64_t count, Target* to) {
  for (int64_t i = 0; i < count; ++i) {
    Source value;
    std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(Source)), sizeof value);
    if constexpr (std::is_same_v<Target, Source>) {
      to[i] = value;
    } else {
      const float wide = [&] {
        if constexpr (std::is_same_v<Source, double>)
          return static_cast<float>(value);
        else
          return to_float(value);
      }();
      if constexpr (std::is_same_v<Target, float>) to[i] = wide;
      if constexpr (std::is_same_v<Target, bf16>) to[i] = to_bf16(wide);
      if constexpr (std::is_same_v<Target, f16>) to[i] = to_f16(wide);
    }
  }
}

template <typename Target>
void read_tensor(const StoredTensor& tensor, Target* out) {
  if (!tensor.contiguous()) {
    const std::vector<float> values = tensor.values<float>();
    convert<Target, float>(reinterpret_cast<const std::byte*>(values.data()), tensor.size(), out);
    return;
  }
  parallel_ranges(tensor.size(), 0.5, [&](int64_t begin, int64_t end) {
    const std::byte* from = tensor.data + begin * stored_type_bytes(tensor.type);
    switch (tensor.type) {
      case StoredType::f64: return convert<Target, double>(from, end - begin, out + begin);
      case StoredType::f32: return convert<Target, float>(from, end - begin, out + begin);
      case StoredType::bf16: return convert<Target, bf16>(from, end - begin, out + begin);
      case StoredType::f16: return convert<Target, f16>(from, end - begin, out + begin);
      default: CBTM_ASSERT(false, "the dtype was checked when the checkpoint was opened");
    }
  });
}

/// Files whose weights this process has looked at and found finite.
class CheckedFiles {
 public:
  bool contain(const std::vector<TensorFile>& files) {
    const std::lock_guard guard(lock_);
    return std::all_of(files.begin(), files.end(), [&](const TensorFile& file) { return known_.contains(key(file)); });
  }
  void add(const std::vector<TensorFile>& files) {
    const std::lock_guard guard(lock_);
    for (const TensorFile& file : files) known_.insert(key(file));
  }

 private:
  static std::string key(const TensorFile& file) {
    struct stat status {};
    if (::stat(file.path().c_str(), &status) != 0) return "";
    return fmt::format("{} {} {} {} {}", status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                       status.st_mtim.tv_nsec);
  }
  std::mutex lock_;
  std::set<std::string> known_;
};

void refuse_broken(const OptCheckpoint& checkpoint) {
  const std::vector<BrokenTensor> broken = checkpoint.broken_tensors();
  if (broken.empty()) return;
  const BrokenTensor& first = broken.front();
  fail(
      "{}: tensor '{}' holds {} NaN or infinite values, the first at index {}{}; the file is damaged, or its training "
      "diverged: use another copy or an earlier checkpoint",
      checkpoint.path().string(), first.name, first.count, first.first,
      broken.size() == 1 ? "" : fmt::format(", and so do {} more tensors", broken.size() - 1));
}

}  // namespace

OptCheckpoint OptCheckpoint::open(const std::filesystem::path& path, ValueCheck check) {
  recover_directory(path);
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) fail("{}: there is no such model directory", path.string());
  if (type == std::filesystem::file_type::none) fail("{}: cannot be read: {}", path.string(), error.message());
  if (type != std::filesystem::file_type::directory)
    fail("{}: a model is a directory with config.json and weights", path.string());
  if (!std::filesystem::exists(path / "config.json", error))
    fail("{}: holds no config.json, so no model{}", path.string(), error ? " (" + error.message() + ")" : "");
  const OptConfig config = read_opt_config(path / "config.json");
  OptCheckpoint checkpoint(
      std::make_unique<State>(State{path, config, ParameterLayout(config), collect_opt_tensors(path, config)}));
  const State& state = *checkpoint.state_;
  check_tensors(state.tensors, state.layout, config, path.string());
  static CheckedFiles checked;
  if (check == ValueCheck::finite && !checked.contain(state.tensors.files)) {
    checkpoint.verify();
    refuse_broken(checkpoint);
    checked.add(state.tensors.files);
  }
  return checkpoint;
}

namespace {

/// What weights_hash is over: the tensors in the layout's order.
struct HashedTensor {
  const std::string* name;
  StoredType type;
  const void* data;
  int64_t bytes;
};

std::string hash_of(const OptConfig& config, const std::vector<HashedTensor>& tensors) {
  constexpr int64_t kBlockBytes = int64_t{16} << 20;
  struct Block {
    size_t tensor;
    int64_t begin, bytes;
    std::string hash;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t begin = 0; begin < tensors[i].bytes; begin += kBlockBytes)
      blocks.push_back({i, begin, std::min(kBlockBytes, tensors[i].bytes - begin), ""});
  parallel_ranges(static_cast<int64_t>(blocks.size()), 1e6, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Block& block = blocks[static_cast<size_t>(i)];
      block.hash = hash_hex(
          {static_cast<const char*>(tensors[block.tensor].data) + block.begin, static_cast<size_t>(block.bytes)});
    }
  });
  StreamingHash hash;
  hash.update(config.architecture_text());
  size_t next = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    hash.update(fmt::format("{} {}\n", *tensors[i].name, stored_type_name(tensors[i].type)));
    for (; next < blocks.size() && blocks[next].tensor == i; ++next) hash.update(blocks[next].hash);
  }
  return hash.hex();
}

}  // namespace

std::string weights_hash(const OptConfig& config, std::span<const float> flat) {
  const ParameterLayout layout(config);
  std::vector<HashedTensor> tensors;
  for (const Parameter& parameter : layout.parameters())
    tensors.push_back({&parameter.name, StoredType::f32, flat.data() + parameter.offset, parameter.size() * 4});
  return hash_of(config, tensors);
}

std::string OptCheckpoint::weights_hash() const {
  std::vector<HashedTensor> tensors;
  std::deque<std::vector<float>> gathered;  // tensors that do not lie in one piece count as the float32 they stand for
  for (const Parameter& parameter : state_->layout.parameters()) {
    const StoredTensor& tensor = state_->tensors.by_name.at(parameter.name);
    if (tensor.contiguous()) {
      tensors.push_back({&parameter.name, tensor.type, tensor.data, tensor.size() * stored_type_bytes(tensor.type)});
    } else {
      gathered.push_back(tensor.values<float>());
      tensors.push_back({&parameter.name, StoredType::f32, gathered.back().data(), tensor.size() * 4});
    }
  }
  return hash_of(state_->config, tensors);
}

bool OptCheckpoint::verify() const {
  if (!content_verification()) return false;
  const std::optional<ExpertCard> card = read_expert_card(state_->path);
  if (!card || card->weights_hash.empty()) return false;
  if (card->weights_hash != weights_hash())
    fail(
        "{}: damaged or replaced: its weights are not those that its expert.json was written for (content hash); "
        "restore "
        "the files, train it again with --redo, or pass --no-verify to use them as they are",
        state_->path.string());
  return true;
}

std::vector<BrokenTensor> OptCheckpoint::broken_tensors() const {
  std::vector<BrokenTensor> broken;
  for (const Parameter& parameter : state_->layout.parameters()) {
    stop_if_requested("reading weights");
    const StoredTensor& tensor = state_->tensors.by_name.at(parameter.name);
    const NotFinite found = find_not_finite(tensor);
    if (found.count > 0) broken.push_back({shown_text(tensor.name), found.count, found.first});
  }
  return broken;
}

DType OptCheckpoint::stored_dtype() const {
  std::map<StoredType, int64_t> sizes;
  for (const auto& [name, tensor] : state_->tensors.by_name) sizes[tensor.type] += tensor.size();
  const auto most =
      std::max_element(sizes.begin(), sizes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  switch (most->first) {
    case StoredType::f16: return DType::f16;
    case StoredType::bf16: return DType::bf16;
    case StoredType::f64: return DType::f64;
    default: return DType::f32;
  }
}

void OptCheckpoint::read_parameters(DType dtype, void* flat) const {
  const int64_t item = dtype_bytes(dtype);
  int64_t filled = 0;
  const auto zero_gap = [&](int64_t end) {
    if (end > filled)
      std::memset(static_cast<char*>(flat) + filled * item, 0, static_cast<size_t>((end - filled) * item));
  };
  for (const Parameter& parameter : state_->layout.parameters()) {
    zero_gap(parameter.offset);
    const StoredTensor& tensor = state_->tensors.by_name.at(parameter.name);
    switch (dtype) {
      case DType::f32: read_tensor(tensor, static_cast<float*>(flat) + parameter.offset); break;
      case DType::bf16: read_tensor(tensor, static_cast<bf16*>(flat) + parameter.offset); break;
      case DType::f16: read_tensor(tensor, static_cast<f16*>(flat) + parameter.offset); break;
      default: CBTM_ASSERT(false, "weights are f32, bf16 or f16");
    }
    filled = parameter.offset + parameter.size();
  }
  zero_gap(state_->layout.flat_size());
}

void OptCheckpoint::read_parameter(const Parameter& parameter, float* out) const {
  read_tensor(state_->tensors.by_name.at(parameter.name), out);
}

void OptCheckpoint::read_vectors(float* vectors) const {
  const int64_t first = state_->layout.matrix_flat_size();
  std::fill_n(vectors, state_->layout.flat_size() - first, 0.0f);
  for (const Parameter& parameter : state_->layout.parameters())
    if (!parameter.is_matrix) read_parameter(parameter, vectors + (parameter.offset - first));
}

const void* OptCheckpoint::mapped_flat(DType dtype) const {
  const int64_t item = dtype_bytes(dtype);
  const std::vector<Parameter>& parameters = state_->layout.parameters();
  const std::byte* base = state_->tensors.by_name.at(parameters.front().name).data;
  if (reinterpret_cast<uintptr_t>(base) % 64 != 0) return nullptr;
  if (parameters.back().offset + parameters.back().size() != state_->layout.flat_size()) return nullptr;
  for (const Parameter& parameter : parameters) {
    const StoredTensor& tensor = state_->tensors.by_name.at(parameter.name);
    if (tensor.type != stored_type_of(dtype) || !tensor.contiguous() || tensor.data != base + parameter.offset * item)
      return nullptr;
  }
  return base;
}

namespace {

constexpr const char* kPrefix = "model.decoder.";

/// `flat` in the stored dtype; f32 is used as it is.
std::vector<uint16_t> narrowed(std::span<const float> flat, DType dtype, const std::string& where) {
  std::vector<uint16_t> out;
  if (dtype == DType::f32) return out;
  out.resize(flat.size());
  int64_t overflowed = 0;
  for (size_t i = 0; i < flat.size(); ++i) {
    if (dtype == DType::bf16) {
      out[i] = to_bf16(flat[i]).bits;
    } else {
      out[i] = to_f16(flat[i]).bits;
      if (std::isfinite(flat[i]) && (out[i] & 0x7fff) == 0x7c00) ++overflowed;
    }
  }
  if (overflowed > 0)
    fail("{}: {} values are too large for float16; write float32 or bfloat16 instead", where, overflowed);
  return out;
}

}  // namespace

void write_opt_checkpoint(const std::filesystem::path& directory, const OptConfig& config, std::span<const float> flat,
                          DType stored_dtype, int64_t shard_bytes_max) {
  const ParameterLayout layout(config);
  CBTM_ASSERT(static_cast<int64_t>(flat.size()) == layout.flat_size(), "a flat buffer has the layout's size");
  const std::vector<uint16_t> half = narrowed(flat, stored_dtype, directory.string());
  const int64_t item = dtype_bytes(stored_dtype);
  const auto* base = stored_dtype == DType::f32 ? reinterpret_cast<const std::byte*>(flat.data())
                                                : reinterpret_cast<const std::byte*>(half.data());
  std::vector<std::vector<OutputTensor>> shards(1);
  int64_t shard_bytes = 0;
  int64_t total_bytes = 0;
  for (const Parameter& parameter : layout.parameters()) {
    const int64_t bytes = parameter.size() * item;
    if (shard_bytes > 0 && shard_bytes + bytes > shard_bytes_max) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back({kPrefix + parameter.name, stored_type_of(stored_dtype), wanted_shape(parameter),
                             base + parameter.offset * item});
    shard_bytes += bytes;
    total_bytes += bytes;
  }
  if (shards.size() == 1) {
    write_safetensors(directory / "model.safetensors", shards[0]);
  } else {
    Json weight_map = Json::object();
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
      write_safetensors(directory / name, shards[i]);
      for (const OutputTensor& tensor : shards[i]) weight_map[tensor.name] = name;
    }
    write_json_file(directory / "model.safetensors.index.json",
                    {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}});
  }
  const char* dtype = stored_dtype == DType::f32 ? "float32" : stored_dtype == DType::bf16 ? "bfloat16" : "float16";
  const Json json = opt_config_json(config, dtype);
  write_json_file(directory / "config.json", json);
  write_json_file(directory / "generation_config.json", {{"bos_token_id", config.bos_token_id},
                                                         {"eos_token_id", json["eos_token_id"]},
                                                         {"pad_token_id", config.pad_token_id}});
}

std::string checkpoint_hash(const std::filesystem::path& directory) {
  const std::vector<std::filesystem::path> files = weight_files(directory);
  for (const std::filesystem::path& file : files) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) fail("{}: is missing, or is not a file", file.string());
  }
  if (files.size() == 1) return hash_file_hex(files.front());
  StreamingHash hash;
  for (size_t i = 1; i < files.size(); ++i)  // the first is the index, which says nothing more
    hash.update(files[i].filename().string() + "\n" + hash_file_hex(files[i]) + "\n");
  return hash.hex();
}

}  // namespace cbtm
