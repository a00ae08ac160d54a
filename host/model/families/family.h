#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// Where a parameter lies in a checkpoint: rows first_row .. first_row + rows of a tensor, or of its transpose. A bias
/// or norm is one row; first_row then counts elements.
struct StoredPlace {
  std::string tensor;  ///< without prefix: "layers.3.fc1.weight"
  int64_t first_row = 0;
  int64_t tensor_rows = 0;  ///< of the whole tensor (of its transpose), or its elements
  bool transposed = false;  ///< stored as [columns, rows]

  /// Of the whole tensor as it is stored.
  std::vector<int64_t> shape(const Parameter& parameter) const {
    if (!parameter.is_matrix) return {tensor_rows};
    if (transposed) return {parameter.columns, tensor_rows};
    return {tensor_rows, parameter.columns};
  }
};

/// One architecture's config.json and tensor names, both ways. Nothing outside this folder knows either.
class ModelFamily {
 public:
  virtual ~ModelFamily() = default;

  virtual std::string_view model_type() const = 0;
  virtual std::string_view title() const = 0;  ///< for people

  /// The family that such a config.json is of, where one model_type stands for several.
  virtual const ModelFamily& of_config(const JsonReader& config) const {
    static_cast<void>(config);
    return *this;
  }
  /// The family of the same models with mixtures of experts; null if there is none.
  virtual const ModelFamily* with_mixtures() const { return nullptr; }
  virtual ModelSpec parse(const JsonReader& config, const std::string& where) const = 0;
  virtual Json config_json(const ModelSpec& spec) const = 0;  ///< without torch_dtype
  virtual std::string architecture_text(const ModelSpec& spec) const = 0;

  virtual StoredPlace place(const ModelSpec& spec, const Parameter& parameter) const = 0;
  /// The tensor of the output matrix, which stands beside the prefixed ones; of a tied model it may be there too.
  virtual std::string_view output_matrix() const = 0;
  /// A tensor that every checkpoint has; what stands before this name is the prefix.
  virtual std::string_view anchor() const = 0;
  /// Usual prefixes, the one that is written first; the others in order of preference.
  virtual std::span<const std::string_view> prefixes() const = 0;
  /// Tensors of published files that are no parameters.
  virtual bool leftover(std::string_view name) const = 0;
  /// Whether other tensors that are no parameters refuse the checkpoint: those of this family would change results.
  virtual bool refuses_unknown() const { return false; }
  /// Throws Error for a name that tells of a kind of checkpoint that cannot be read.
  virtual void check_name(const std::string& stored_name, const std::string& where) const {
    static_cast<void>(stored_name);
    static_cast<void>(where);
  }
  /// The name as place() has it, of one in another spelling.
  virtual std::string current_name(std::string name) const { return name; }
  /// Cuts tensors that other programs store joined.
  virtual void separate(std::map<std::string, StoredTensor>& tensors, const std::string& where) const {
    static_cast<void>(tensors);
    static_cast<void>(where);
  }
  /// What a tensor of the wrong shape tells, as a whole message without the directory; or empty.
  virtual std::string shape_problem(const ModelSpec& spec, const Parameter& parameter,
                                    const StoredTensor& tensor) const {
    static_cast<void>(spec);
    static_cast<void>(parameter);
    static_cast<void>(tensor);
    return {};
  }
};

const ModelFamily& opt_family();
const ModelFamily& opt_moe_family();
const ModelFamily& gpt2_family();

/// Null if there is none.
const ModelFamily* find_family(std::string_view model_type);
const ModelFamily& family_of(const ModelSpec& spec);

}  // namespace cbtm
