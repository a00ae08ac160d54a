#include "cbtm/model/checkpoint.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/signals.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/families.h"
#include "model/families/stored_model.h"
#include "model/stored_values.h"
#include "model/weights_hash.h"
#include "tensor_file/finite_values.h"

namespace cbtm {

struct ModelCheckpoint::State {
  std::filesystem::path path;
  ModelSpec spec;
  ParameterLayout layout;
  StoredModel stored;
};

ModelCheckpoint::ModelCheckpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelCheckpoint::ModelCheckpoint(ModelCheckpoint&&) noexcept = default;
ModelCheckpoint::~ModelCheckpoint() = default;
const std::filesystem::path& ModelCheckpoint::path() const { return state_->path; }
const ModelSpec& ModelCheckpoint::spec() const { return state_->spec; }
const ParameterLayout& ModelCheckpoint::layout() const { return state_->layout; }

namespace {

/// Which file it is, and when it was written last; "" if it is gone.
std::string file_identity(const TensorFile& file) {
  struct stat status {};
  if (::stat(file.path().c_str(), &status) != 0) return "";
  return fmt::format("{} {} {} {} {}", status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec);
}

/// Files whose weights this process has looked at and found finite.
class CheckedFiles {
 public:
  bool contain(const std::vector<TensorFile>& files) {
    const std::lock_guard guard(lock_);
    return std::all_of(files.begin(), files.end(),
                       [&](const TensorFile& file) { return known_.contains(file_identity(file)); });
  }
  void add(const std::vector<TensorFile>& files) {
    const std::lock_guard guard(lock_);
    for (const TensorFile& file : files) known_.insert(file_identity(file));
  }

 private:
  std::mutex lock_;
  std::set<std::string> known_;
};

void refuse_broken(const ModelCheckpoint& checkpoint) {
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

ModelCheckpoint ModelCheckpoint::open(const std::filesystem::path& path, ValueCheck check) {
  recover_directory(path);
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) fail("{}: there is no such model directory", path.string());
  if (type == std::filesystem::file_type::none) fail("{}: cannot be read: {}", path.string(), error.message());
  if (type != std::filesystem::file_type::directory)
    fail("{}: a model is a directory with config.json and weights", path.string());
  const std::filesystem::path config = model_config_file(path);
  if (!std::filesystem::exists(config, error))
    fail("{}: holds no {}, so no model{}", path.string(), config.filename().string(),
         error ? " (" + error.message() + ")" : "");
  ModelSpec spec = read_model_spec(config);
  ParameterLayout layout(spec);
  StoredModel stored = find_stored_model(path, spec, layout);
  ModelCheckpoint checkpoint(
      std::make_unique<State>(State{path, std::move(spec), std::move(layout), std::move(stored)}));
  const std::vector<TensorFile>& files = checkpoint.state_->stored.files;
  static CheckedFiles checked;
  if (check == ValueCheck::finite && !checked.contain(files)) {
    checkpoint.verify();
    refuse_broken(checkpoint);
    checked.add(files);
  }
  return checkpoint;
}

const StoredTensor& ModelCheckpoint::stored(const Parameter& parameter) const {
  const std::vector<Parameter>& parameters = state_->layout.parameters();
  for (size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i].offset == parameter.offset) return state_->stored.tensors[i];
  CBTM_ASSERT(false, "a parameter of this model");
}

std::string ModelCheckpoint::weights_hash() const { return hash_of_stored(state_->spec, state_->stored.tensors); }

std::string ModelCheckpoint::identity() const {
  if (content_verification())
    if (const std::optional<ExpertCard> card = read_expert_card(state_->path); card && !card->weights_hash.empty())
      return card->weights_hash;
  std::string files;
  for (const TensorFile& file : state_->stored.files) files += file_identity(file) + "\n";
  return files;
}

bool ModelCheckpoint::verify() const {
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

std::vector<BrokenTensor> ModelCheckpoint::broken_tensors() const {
  std::vector<BrokenTensor> broken;
  for (const StoredTensor& tensor : state_->stored.tensors) {
    stop_if_requested("reading weights");
    const NotFinite found = find_not_finite(tensor);
    if (found.count > 0) broken.push_back({shown_text(tensor.name), found.count, found.first});
  }
  return broken;
}

DType ModelCheckpoint::stored_dtype() const {
  std::map<StoredType, int64_t> sizes;
  for (const StoredTensor& tensor : state_->stored.tensors) sizes[tensor.type] += tensor.size();
  const auto most =
      std::max_element(sizes.begin(), sizes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  switch (most->first) {
    case StoredType::f16: return DType::f16;
    case StoredType::bf16: return DType::bf16;
    case StoredType::f64: return DType::f64;
    default: return DType::f32;
  }
}

void ModelCheckpoint::read_parameters(DType dtype, void* flat) const {
  const int64_t item = dtype_bytes(dtype);
  char* const out = static_cast<char*>(flat);
  int64_t filled = 0;
  const auto zero_gap = [&](int64_t end) {
    if (end > filled) std::memset(out + filled * item, 0, static_cast<size_t>((end - filled) * item));
  };
  const std::vector<Parameter>& parameters = state_->layout.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    zero_gap(parameters[i].offset);
    read_stored_values(state_->stored.tensors[i], dtype, out + parameters[i].offset * item);
    filled = parameters[i].offset + parameters[i].size();
  }
  zero_gap(state_->layout.flat_size());
}

void ModelCheckpoint::read_parameter(const Parameter& parameter, float* out) const {
  read_stored_values(stored(parameter), DType::f32, out);
}

void ModelCheckpoint::read_vectors(float* vectors) const {
  const int64_t first = state_->layout.matrix_flat_size();
  std::fill_n(vectors, state_->layout.flat_size() - first, 0.0f);
  for (const Parameter& parameter : state_->layout.parameters())
    if (!parameter.is_matrix) read_parameter(parameter, vectors + (parameter.offset - first));
}

const void* ModelCheckpoint::mapped_flat(DType dtype) const {
  const int64_t item = dtype_bytes(dtype);
  const std::vector<Parameter>& parameters = state_->layout.parameters();
  const std::byte* base = state_->stored.tensors.front().data;
  if (reinterpret_cast<uintptr_t>(base) % 64 != 0) return nullptr;
  if (parameters.back().offset + parameters.back().size() != state_->layout.flat_size()) return nullptr;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const StoredTensor& tensor = state_->stored.tensors[i];
    if (tensor.type != stored_type_of(dtype) || !tensor.contiguous() ||
        tensor.data != base + parameters[i].offset * item)
      return nullptr;
  }
  return base;
}

}  // namespace cbtm
