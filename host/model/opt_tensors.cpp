#include "model/opt_tensors.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/json.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"

namespace cbtm {
namespace {

constexpr std::string_view kOutputMatrix = "lm_head.weight";
constexpr const char* kInputMatrix = "embed_tokens.weight";

/// The files that an index of shards names, each with its tensors.
std::map<std::string, std::vector<std::string>> read_index(const std::filesystem::path& index_path) {
  const Json index = read_json_file(index_path);
  const JsonReader read(index, index_path.string(), "download or write it again");
  const JsonReader weight_map = read.object("weight_map");
  std::map<std::string, std::vector<std::string>> tensors_of_file;
  for (const auto& [tensor, file] : weight_map.json().items()) {
    const std::string& name = file.is_string() ? file.get_ref<const std::string&>() : weight_map.text(tensor);
    if (name.empty() || name.find('/') != std::string::npos || name.find('\\') != std::string::npos || name == ".." ||
        name == "." || name.find('\0') != std::string::npos)
      weight_map.refuse(fmt::format("names '{}', which is not a plain file of this folder", shown_text(name)));
    tensors_of_file[name].push_back(tensor);
  }
  if (tensors_of_file.empty()) weight_map.refuse("names no files");
  return tensors_of_file;
}

/// The file that says where the weights are: one of weights, or an index of shards.
std::filesystem::path find_weights(const std::filesystem::path& directory) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                           "pytorch_model.bin.index.json", "restored.pt"})
    if (std::filesystem::exists(directory / name)) return directory / name;
  fail("{}: holds no weights; expected model.safetensors, pytorch_model.bin, or an index of shards",
       directory.string());
}

std::vector<TensorFile> open_files(const std::filesystem::path& directory) {
  std::vector<TensorFile> files;
  const std::filesystem::path weights = find_weights(directory);
  if (weights.extension() != ".json") {
    files.push_back(TensorFile::open(weights));
    return files;
  }
  for (const auto& [name, tensors] : read_index(weights)) {
    stop_if_requested("reading weights");
    const std::filesystem::path path = directory / name;
    if (!std::filesystem::exists(path))
      fail("{}: is missing, though {} names it; download or copy it too", path.string(), weights.filename().string());
    files.push_back(TensorFile::open(path));
    for (const std::string& tensor : tensors)
      if (files.back().find(tensor) == nullptr && !files.back().unreadable().contains(tensor))
        fail("{}: the index says it holds '{}', but it does not", path.string(), shown_text(tensor));
  }
  return files;
}

/// A tensor's name without what wrappers of modules put into it: torch.compile, DataParallel, DeepSpeed, FSDP,
/// activation checkpointing. They may stand anywhere, once for each wrapped module.
std::string unwrapped_name(std::string_view name) {
  static constexpr std::string_view kWrappers[] = {"_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module",
                                                   "_checkpoint_wrapped_module"};
  std::string out;
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    const bool wraps =
        end < name.size() && std::find(std::begin(kWrappers), std::end(kWrappers), part) != std::end(kWrappers);
    if (!wraps) out += name.substr(begin, std::min(end + 1, name.size()) - begin);
    begin = end + 1;
  }
  return out;
}

/// metaseq's own spelling of some names.
std::string current_name(std::string name) {
  if (name.starts_with("project_in_dim.")) return "project_in." + name.substr(15);
  if (name.starts_with("project_out_dim.")) return "project_out." + name.substr(16);
  if (name.starts_with("layer_norm.")) return "final_" + name;
  return name;
}

bool harmless(const std::string& name) { return name == "version" || name == "output_projection.weight"; }

bool same_values(const StoredTensor& a, const StoredTensor& b) {
  if (a.shape != b.shape || !is_floating(a.type) || !is_floating(b.type)) return a.shape == b.shape && a.type == b.type;
  if (a.data == b.data && a.type == b.type && a.strides == b.strides) return true;
  if (a.type == b.type && a.contiguous() && b.contiguous())
    return std::memcmp(a.data, b.data, static_cast<size_t>(a.size() * stored_type_bytes(a.type))) == 0;
  return a.values<float>() == b.values<float>();
}

/// "'a', 'b', 'c' and 17 more".
class NameList {
 public:
  void add(std::string_view name) {
    if (count_++ < kShown) text_ += fmt::format("{}'{}'", count_ == 1 ? "" : ", ", shown_text(name));
  }
  int64_t count() const { return count_; }
  std::string text() const { return count_ > kShown ? fmt::format("{} and {} more", text_, count_ - kShown) : text_; }

 private:
  static constexpr int64_t kShown = 3;
  int64_t count_ = 0;
  std::string text_;
};

void warn_left_out(const std::string& where, const NameList& names, const char* reason) {
  if (names.count() == 1) warn(fmt::format("{}: tensor {} is {} and left out", where, names.text(), reason));
  if (names.count() > 1)
    warn(fmt::format("{}: {} tensors are {} and left out: {}", where, names.count(), reason, names.text()));
}

/// A fused qkv_proj holds three equal blocks of rows, in the order k, v, q.
void split_fused(std::map<std::string, StoredTensor>& tensors, const std::string& where) {
  std::vector<std::string> fused;
  for (const auto& [name, tensor] : tensors)
    if (name.find(".qkv_proj.") != std::string::npos) fused.push_back(name);
  for (const std::string& name : fused) {
    const StoredTensor whole = tensors[name];
    if (whole.shape.empty() || whole.shape[0] % 3 != 0)
      fail("{}: tensor '{}' cannot be cut in three", where, shown_text(name));
    if (whole.type == StoredType::other)
      fail("{}: tensor '{}' holds {}, which is not read", where, shown_text(name), whole.other_type);
    const int64_t rows = whole.shape[0] / 3;
    int64_t block = 0;
    for (const char* part : {"k_proj", "v_proj", "q_proj"}) {
      StoredTensor piece = whole;
      piece.name = name;
      piece.name.replace(name.find("qkv_proj"), 8, part);
      piece.shape[0] = rows;
      piece.data += block++ * rows * whole.strides[0] * stored_type_bytes(whole.type);
      tensors[piece.name] = piece;
    }
    tensors.erase(name);
  }
}

}  // namespace

namespace {

constexpr std::string_view kPositions = "embed_positions.weight";

/// Every prefix that an OPT decoder has in these files; `seen` gets the names for a message.
std::set<std::string> find_prefixes(const std::vector<TensorFile>& files, const std::string& where, NameList& seen) {
  std::set<std::string> prefixes;
  const auto look_at = [&](std::string_view stored_name) {
    seen.add(stored_name);
    const std::string name = unwrapped_name(stored_name);
    if (!name.ends_with(kPositions)) return;
    const std::string prefix = name.substr(0, name.size() - kPositions.size());
    if (prefix.empty() || prefix.ends_with('.')) prefixes.insert(prefix);
  };
  for (const TensorFile& file : files) {
    for (const StoredTensor& tensor : file.tensors()) {
      if (tensor.name.find("flat_param") != std::string::npos)
        fail("{}: a sharded FSDP checkpoint of metaseq ('{}'); consolidate it first", where, shown_text(tensor.name));
      look_at(tensor.name);
    }
    for (const auto& [name, reason] : file.unreadable()) look_at(name);
  }
  return prefixes;
}

std::string find_prefix(const std::vector<TensorFile>& files, const std::string& where) {
  NameList seen;
  const std::set<std::string> prefixes = find_prefixes(files, where, seen);
  if (prefixes.empty())
    fail("{}: no tensor's name ends with '{}', so these are not the weights of an OPT model; they hold {}", where,
         kPositions, seen.text());
  for (const char* usual : {"model.decoder.", "decoder.", ""})
    if (prefixes.contains(usual)) return usual;
  if (prefixes.size() > 1)
    fail("{}: holds {} models ('{}' and '{}'); keep the tensors of one", where, prefixes.size(),
         shown_text(*prefixes.begin()), shown_text(*prefixes.rbegin()));
  return *prefixes.begin();
}

/// Where lm_head stands: beside "model.decoder." or "decoder.".
std::string output_matrix_name(const std::string& prefix) {
  for (const std::string_view inner : {"model.decoder.", "decoder."})
    if (prefix.ends_with(inner)) return prefix.substr(0, prefix.size() - inner.size()) + std::string(kOutputMatrix);
  return std::string(kOutputMatrix);
}

}  // namespace

OptTensors collect_opt_tensors(const std::filesystem::path& directory, const OptConfig& config) {
  OptTensors result;
  result.files = open_files(directory);
  const std::string where = directory.string();
  const std::string prefix = find_prefix(result.files, where);
  const std::string output_name = output_matrix_name(prefix);

  const StoredTensor* output_matrix = nullptr;
  NameList unknown;
  const auto known_name = [&](const std::string& name) {
    return name.starts_with(prefix) ? current_name(name.substr(prefix.size())) : std::string();
  };
  for (const TensorFile& file : result.files) {
    for (const StoredTensor& tensor : file.tensors()) {
      const std::string unwrapped = unwrapped_name(tensor.name);
      if (unwrapped == output_name) {
        output_matrix = &tensor;
        continue;
      }
      const std::string name = known_name(unwrapped);
      if (harmless(name)) continue;
      if (name.empty()) {
        unknown.add(tensor.name);
      } else if (!result.by_name.emplace(name, tensor).second) {
        fail("{}: tensor '{}' is there twice", where, shown_text(tensor.name));
      }
    }
    for (const auto& [stored_name, reason] : file.unreadable()) {
      const std::string name = known_name(unwrapped_name(stored_name));
      if (name.empty()) {
        unknown.add(stored_name);
      } else {
        result.unreadable.emplace(name, reason);
      }
    }
  }
  warn_left_out(where, unknown, "unknown");
  split_fused(result.by_name, where);

  const auto input = result.by_name.find(kInputMatrix);
  if (output_matrix != nullptr) {
    if (input == result.by_name.end()) {
      result.by_name.emplace(kInputMatrix, *output_matrix);
    } else if (!same_values(input->second, *output_matrix)) {
      fail("{}: lm_head.weight and embed_tokens.weight differ, but OPT has one matrix for both; drop one of them",
           where);
    }
  }

  const ParameterLayout layout(config);
  std::set<std::string_view> wanted;
  for (const Parameter& parameter : layout.parameters()) wanted.insert(parameter.name);
  NameList not_part;
  for (const auto& [name, tensor] : result.by_name)
    if (!wanted.contains(name)) not_part.add(tensor.name);
  warn_left_out(where, not_part, "not part of a model with this config");
  std::erase_if(result.by_name, [&](const auto& entry) { return !wanted.contains(entry.first); });
  return result;
}

std::vector<std::filesystem::path> weight_files(const std::filesystem::path& directory) {
  const std::filesystem::path weights = find_weights(directory);
  std::vector<std::filesystem::path> files = {weights};
  if (weights.extension() == ".json")
    for (const auto& [name, tensors] : read_index(weights)) files.push_back(directory / name);
  return files;
}

}  // namespace cbtm
