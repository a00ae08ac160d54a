#include "checkpoint/opt_tensors.h"

#include <cstring>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

constexpr const char* kOutputMatrix = "lm_head.weight";
constexpr const char* kInputMatrix = "embed_tokens.weight";

std::vector<TensorFile> open_shards(const std::filesystem::path& directory, const std::filesystem::path& index_path) {
  const Json index = read_json_file(index_path);
  const std::string shown = index_path.string();
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail("{}: has no weight_map", shown);
  std::map<std::string, std::set<std::string>> tensors_of_file;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string()) fail("{}: weight_map of '{}' is not a file name", shown, tensor);
    const std::string name = file.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos || name.find('\\') != std::string::npos || name == ".." ||
        name == ".")
      fail("{}: weight_map names '{}', which is not a plain file of this folder", shown, name);
    tensors_of_file[name].insert(tensor);
  }
  std::vector<TensorFile> files;
  for (const auto& [name, tensors] : tensors_of_file) {
    files.push_back(TensorFile::open(directory / name));
    for (const std::string& tensor : tensors)
      if (files.back().find(tensor) == nullptr)
        fail("{}: the index says it holds '{}', but it does not", (directory / name).string(), tensor);
  }
  return files;
}

std::vector<TensorFile> open_files(const std::filesystem::path& directory) {
  std::vector<TensorFile> files;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                           "pytorch_model.bin.index.json", "restored.pt"}) {
    const std::filesystem::path path = directory / name;
    if (!std::filesystem::exists(path)) continue;
    if (path.extension() == ".json") return open_shards(directory, path);
    files.push_back(TensorFile::open(path));
    return files;
  }
  fail("{}: holds no weights; expected model.safetensors, pytorch_model.bin, or an index of shards",
       directory.string());
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
  if (a.shape != b.shape) return false;
  if (a.data == b.data && a.type == b.type && a.strides == b.strides) return true;
  if (a.type == b.type && a.contiguous() && b.contiguous())
    return std::memcmp(a.data, b.data, static_cast<size_t>(a.size() * stored_type_bytes(a.type))) == 0;
  return a.values<float>() == b.values<float>();
}

/// A fused qkv_proj holds three equal blocks of rows, in the order k, v, q.
void split_fused(std::map<std::string, StoredTensor>& tensors, const std::string& where) {
  std::vector<std::string> fused;
  for (const auto& [name, tensor] : tensors)
    if (name.find(".qkv_proj.") != std::string::npos) fused.push_back(name);
  for (const std::string& name : fused) {
    const StoredTensor whole = tensors[name];
    if (whole.shape.empty() || whole.shape[0] % 3 != 0) fail("{}: tensor '{}' cannot be cut in three", where, name);
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

OptTensors collect_opt_tensors(const std::filesystem::path& directory, const OptConfig& config) {
  OptTensors result;
  result.files = open_files(directory);
  const std::string where = directory.string();

  std::string prefix;
  bool prefix_found = false;
  for (const char* candidate : {"model.decoder.", "decoder.", ""})
    for (const TensorFile& file : result.files) {
      if (prefix_found || file.find(std::string(candidate) + "embed_positions.weight") == nullptr) continue;
      prefix = candidate;
      prefix_found = true;
    }
  if (!prefix_found) {
    for (const TensorFile& file : result.files)
      for (const StoredTensor& tensor : file.tensors())
        if (tensor.name.find("flat_param") != std::string::npos)
          fail("{}: a sharded FSDP checkpoint of metaseq ('{}'); consolidate it first", where, tensor.name);
    fail("{}: tensor 'embed_positions.weight' is not there under any known prefix, so this is not an OPT model", where);
  }

  const StoredTensor* output_matrix = nullptr;
  for (const TensorFile& file : result.files)
    for (const StoredTensor& tensor : file.tensors()) {
      if (tensor.name == kOutputMatrix) {
        output_matrix = &tensor;
        continue;
      }
      if (!tensor.name.starts_with(prefix)) {
        warn(fmt::format("{}: tensor '{}' is unknown and left out", file.path().string(), tensor.name));
        continue;
      }
      const std::string name = current_name(tensor.name.substr(prefix.size()));
      if (harmless(name)) continue;
      if (!result.by_name.emplace(name, tensor).second) fail("{}: tensor '{}' is there twice", where, tensor.name);
    }
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
  for (const auto& [name, tensor] : result.by_name)
    if (layout.find(name) == nullptr)
      warn(fmt::format("{}: tensor '{}' is not part of a model with this config and left out", where, tensor.name));
  return result;
}

}  // namespace cbtm
