#include "model/families/weight_files.h"

#include <map>
#include <string>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/json.h"
#include "cbtm/base/signals.h"

namespace cbtm {
namespace {

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

}  // namespace

std::vector<TensorFile> open_weight_files(const std::filesystem::path& directory) {
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

std::vector<std::filesystem::path> weight_files(const std::filesystem::path& directory) {
  const std::filesystem::path weights = find_weights(directory);
  std::vector<std::filesystem::path> files = {weights};
  if (weights.extension() == ".json")
    for (const auto& [name, tensors] : read_index(weights)) files.push_back(directory / name);
  return files;
}

}  // namespace cbtm
