#include "cbtm/model/families.h"

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "model/families/config_values.h"
#include "model/families/family.h"

namespace cbtm {
namespace {

constexpr int64_t kConfigBytesMax = 16 << 20;
constexpr const char* kConfigName = "config.json";

/// "'llama' (LlamaForCausalLM)", of whatever config.json this is.
std::string found_model(const JsonReader& read) {
  std::string text = read.has("model_type") ? "'" + shown_text(read.text("model_type")) + "'" : "missing";
  const Json& json = read.json();
  if (read.has("architectures") && json["architectures"].is_array() && !json["architectures"].empty() &&
      json["architectures"][0].is_string())
    text += " (" + shown_text(json["architectures"][0].get_ref<const std::string&>()) + ")";
  return text;
}

}  // namespace

const ModelFamily* find_family(std::string_view model_type) {
  for (const ModelFamily* family : {&opt_family(), &opt_moe_family(), &gpt2_family()})
    if (family->model_type() == model_type) return family;
  return nullptr;
}

const ModelFamily& family_of(const ModelSpec& spec) {
  const ModelFamily* family = find_family(spec.family);
  CBTM_ASSERT(family != nullptr, "a spec names the family that made it");
  return *family;
}

bool holds_model(const std::filesystem::path& directory) {
  std::error_code error;
  return std::filesystem::exists(directory / kConfigName, error);
}

std::filesystem::path model_config_file(const std::filesystem::path& directory) { return directory / kConfigName; }

ModelSpec parse_model_spec(const Json& config, const std::string& where) {
  const JsonReader read(config, where);
  const ModelFamily* family = find_family(read.text_or("model_type", ""));
  if (family == nullptr)
    fail("{}: model_type is {}, but only 'opt', 'opt_moe' and 'gpt2' models are understood", where, found_model(read));
  family = &family->of_config(read);
  ModelSpec spec = family->parse(read, where);
  spec.family = family->model_type();
  return spec;
}

ModelSpec read_model_spec(const std::filesystem::path& config_json) {
  ModelSpec spec = parse_model_spec(read_json_file(config_json, kConfigBytesMax), config_json.string());
  const std::filesystem::path generation = config_json.parent_path() / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const Json json = read_json_file(generation, kConfigBytesMax);
    // Generation ends at any of these, whatever config.json names.
    spec.eos_token_ids = end_tokens(JsonReader(json, generation.string()).as_object(), spec.eos_token_ids);
  }
  return spec;
}

Json model_config_json(const ModelSpec& spec, const std::string& torch_dtype) {
  Json json = family_of(spec).config_json(spec);
  json["torch_dtype"] = torch_dtype;
  return json;
}

std::string architecture_text(const ModelSpec& spec) { return family_of(spec).architecture_text(spec); }

std::string tensor_name(const ModelSpec& spec, const Parameter& parameter) {
  return family_of(spec).place(spec, parameter).tensor;
}

std::string family_with_mixtures(const ModelSpec& spec) {
  const ModelFamily* family = family_of(spec).with_mixtures();
  return family == nullptr ? "" : std::string(family->model_type());
}

std::string family_title(const ModelSpec& spec) { return std::string(family_of(spec).title()); }

}  // namespace cbtm
