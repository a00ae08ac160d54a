#include "model/families/stored_model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/progress.h"
#include "model/families/family.h"
#include "model/families/tensor_names.h"
#include "model/families/weight_files.h"

namespace cbtm {
namespace {

/// The tensors of a checkpoint under the names of ModelFamily::place.
struct NamedTensors {
  std::map<std::string, StoredTensor> by_name;
  std::map<std::string, std::string> unreadable;  ///< name -> why it is not in by_name
  std::optional<StoredTensor> output_matrix;
};

void report_left_out(const std::string& where, const NameList& names, const char* reason, bool refuse) {
  if (names.count() == 0) return;
  const bool one = names.count() == 1;
  if (refuse)
    fail("{}: {} {} {}: {}; it would change every result to leave them out", where,
         one ? std::string("a tensor") : fmt::format("{} tensors", names.count()), one ? "is" : "are", reason,
         names.text());
  if (one) return warn(fmt::format("{}: tensor {} is {} and left out", where, names.text(), reason));
  warn(fmt::format("{}: {} tensors are {} and left out: {}", where, names.count(), reason, names.text()));
}

NamedTensors named_tensors(const std::vector<TensorFile>& files, const ModelFamily& family, const std::string& where) {
  const std::string prefix = find_prefix(files, family, where);
  const std::string output_name = output_matrix_name(family, prefix);
  NamedTensors result;
  NameList unknown;
  const auto known_name = [&](const std::string& name) {
    return name.starts_with(prefix) ? family.current_name(name.substr(prefix.size())) : std::string();
  };
  for (const TensorFile& file : files) {
    for (const StoredTensor& tensor : file.tensors()) {
      const std::string unwrapped = unwrapped_name(tensor.name);
      if (unwrapped == output_name) {
        result.output_matrix = tensor;
        continue;
      }
      const std::string name = known_name(unwrapped);
      if (family.leftover(name)) continue;
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
  report_left_out(where, unknown, "unknown", family.refuses_unknown());
  family.separate(result.by_name, where);
  return result;
}

bool same_values(const StoredTensor& a, const StoredTensor& b) {
  if (a.shape != b.shape || !is_floating(a.type) || !is_floating(b.type)) return a.shape == b.shape && a.type == b.type;
  if (a.data == b.data && a.type == b.type && a.strides == b.strides) return true;
  if (a.type == b.type && a.contiguous() && b.contiguous())
    return std::memcmp(a.data, b.data, static_cast<size_t>(a.size() * stored_type_bytes(a.type))) == 0;
  return a.values<float>() == b.values<float>();
}

/// Of a tied model the output matrix may stand for the token table, or be a copy of it.
void place_output_matrix(NamedTensors& tensors, const ModelSpec& spec, const ParameterLayout& layout,
                         const std::string& where) {
  if (!tensors.output_matrix) return;
  const ModelFamily& family = family_of(spec);
  const std::string output(family.output_matrix());
  if (!spec.tied_output) {
    tensors.by_name.emplace(output, *tensors.output_matrix);
    return;
  }
  const std::string table = family.place(spec, *layout.find(ParameterRole::token_embedding)).tensor;
  const auto [input, added] = tensors.by_name.emplace(table, *tensors.output_matrix);
  if (!added && !same_values(input->second, *tensors.output_matrix))
    fail("{}: {} and {} differ, but {} has one matrix for both; drop one of them", where, output, table,
         family.title());
}

void report_unwanted(const NamedTensors& tensors, const ModelSpec& spec, const ParameterLayout& layout,
                     const std::string& where) {
  const ModelFamily& family = family_of(spec);
  std::set<std::string> wanted;
  for (const Parameter& parameter : layout.parameters()) wanted.insert(family.place(spec, parameter).tensor);
  NameList not_part;
  for (const auto& [name, tensor] : tensors.by_name)
    if (!wanted.contains(name)) not_part.add(tensor.name);
  report_left_out(where, not_part, "not part of a model with this config", family.refuses_unknown());
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += fmt::format("{}{}", axis == 0 ? "" : ", ", shape[axis]);
  return text + "]";
}

const StoredTensor& checked_tensor(const NamedTensors& tensors, const ModelSpec& spec, const Parameter& parameter,
                                   const StoredPlace& place, const std::string& where) {
  const auto found = tensors.by_name.find(place.tensor);
  if (found == tensors.by_name.end()) {
    const auto unreadable = tensors.unreadable.find(place.tensor);
    if (unreadable == tensors.unreadable.end()) fail("{}: tensor '{}' is missing", where, place.tensor);
    fail("{}: tensor '{}' cannot be read: {}", where, place.tensor, unreadable->second);
  }
  const StoredTensor& tensor = found->second;
  if (!is_floating(tensor.type))
    fail("{}: tensor '{}' holds {}, but weights are F64, F32, F16 or BF16; convert it", where, tensor.name,
         tensor.type_name());
  const std::vector<int64_t> wanted = place.shape(parameter);
  if (tensor.shape != wanted) {
    const std::string problem = family_of(spec).shape_problem(spec, parameter, tensor);
    if (!problem.empty()) fail("{}: {}", where, problem);
    fail("{}: tensor '{}' has shape {}, but the config asks for {}", where, tensor.name, shape_text(tensor.shape),
         shape_text(wanted));
  }
  return tensor;
}

/// The parameter's part of a tensor.
StoredTensor part_of(StoredTensor tensor, const Parameter& parameter, const StoredPlace& place) {
  if (!parameter.is_matrix) {
    tensor.data += place.first_row * tensor.strides[0] * stored_type_bytes(tensor.type);
    tensor.shape = {parameter.columns};
    return tensor;
  }
  if (place.transposed) std::swap(tensor.strides[0], tensor.strides[1]);
  tensor.data += place.first_row * tensor.strides[0] * stored_type_bytes(tensor.type);
  tensor.shape = {parameter.rows, parameter.columns};
  return tensor;
}

}  // namespace

StoredModel find_stored_model(const std::filesystem::path& directory, const ModelSpec& spec,
                              const ParameterLayout& layout) {
  const ModelFamily& family = family_of(spec);
  const std::string where = directory.string();
  StoredModel model{.files = open_weight_files(directory), .tensors = {}};
  NamedTensors tensors = named_tensors(model.files, family, where);
  place_output_matrix(tensors, spec, layout, where);
  report_unwanted(tensors, spec, layout, where);
  for (const Parameter& parameter : layout.parameters()) {
    const StoredPlace place = family.place(spec, parameter);
    model.tensors.push_back(part_of(checked_tensor(tensors, spec, parameter, place, where), parameter, place));
  }
  return model;
}

}  // namespace cbtm
