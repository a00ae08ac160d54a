#pragma once

#include <filesystem>
#include <string>

#include "cbtm/base/json.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"

namespace cbtm {

/// What a directory with a model's description holds at least.
bool holds_model(const std::filesystem::path& directory);
/// DIRECTORY/config.json.
std::filesystem::path model_config_file(const std::filesystem::path& directory);

/// The model that config.json describes, of any family in host/model/families. Throws Error naming `where` and the
/// field: a model_type that is not understood, a wrong type, a size that is not positive, a setting that changes the
/// computation in a way that is not implemented.
ModelSpec parse_model_spec(const Json& config, const std::string& where);
/// The same of a file, with what generation_config.json beside it says of the tokens that end a text.
ModelSpec read_model_spec(const std::filesystem::path& config_json);

/// The object to write as config.json; `torch_dtype` as transformers names it ("float32").
Json model_config_json(const ModelSpec& spec, const std::string& torch_dtype);

/// What of config.json the meaning of the weights depends on, as one line: it is part of a model's weights_hash, and
/// models that can be averaged have the same one.
std::string architecture_text(const ModelSpec& spec);

/// The checkpoint's tensor that holds a parameter, without prefix: "layers.3.fc1.weight". It may hold others too.
std::string tensor_name(const ModelSpec& spec, const Parameter& parameter);

/// The family of the same model with mixtures of experts in some layers (ModelSpec::family), or "" if there is none.
std::string family_with_mixtures(const ModelSpec& spec);

/// The family's name for people: "OPT".
std::string family_title(const ModelSpec& spec);

/// OPT models "125m" .. "175b" as published (docs/opt-format.md, 'Presets'), and small ones of ours for laptops. Throws
/// a usage Error that lists the names.
ModelSpec model_preset(const std::string& name);

}  // namespace cbtm
