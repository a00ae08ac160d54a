#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "model/families/family.h"

namespace cbtm {

/// Whether config.json describes a mixture of experts, whatever its model_type.
bool has_mixture_keys(const JsonReader& config);
/// Whether the tensor is of a mixture: its router's or an expert's.
inline bool names_expert(std::string_view tensor) { return tensor.find(".moe.") != std::string_view::npos; }

/// OPT: configuration, tensor names and their older spellings (docs/opt-format.md).
class OptFamily : public ModelFamily {
 public:
  std::string_view model_type() const override { return "opt"; }
  std::string_view title() const override { return "OPT"; }

  /// opt_moe, if there are mixtures of experts: other programs write those with model_type opt too.
  const ModelFamily& of_config(const JsonReader& config) const override;
  const ModelFamily* with_mixtures() const override { return &opt_moe_family(); }
  ModelSpec parse(const JsonReader& read, const std::string& where) const override;
  Json config_json(const ModelSpec& spec) const override;
  std::string architecture_text(const ModelSpec& spec) const override;

  StoredPlace place(const ModelSpec& spec, const Parameter& parameter) const override;
  std::string_view output_matrix() const override { return "lm_head.weight"; }
  std::string_view anchor() const override { return "embed_positions.weight"; }
  std::span<const std::string_view> prefixes() const override;
  bool leftover(std::string_view name) const override;

  void check_name(const std::string& stored_name, const std::string& where) const override;
  std::string current_name(std::string name) const override;
  void separate(std::map<std::string, StoredTensor>& tensors, const std::string& where) const override;
  std::string shape_problem(const ModelSpec& spec, const Parameter& parameter,
                            const StoredTensor& tensor) const override;
};

}  // namespace cbtm
