#include "cbtm/model/opt_config.h"

#include <cmath>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// A preset's shape; everything else is the default.
struct Preset {
  const char* name;
  int64_t layers, hidden_size, heads, ffn_dim, projection;
  bool pre_norm;
  int64_t positions;
};

// The published sizes (opt-format.md section 1), and before them small ones of ours for a laptop.
constexpr Preset kPresets[] = {
    {"nano", 2, 64, 2, 256, 64, true, 1024},           {"micro", 3, 128, 4, 512, 128, true, 1024},
    {"mini", 4, 192, 6, 768, 192, true, 1024},         {"small", 6, 384, 6, 1536, 384, true, 1024},
    {"125m", 12, 768, 12, 3072, 768, true, 2048},      {"350m", 24, 1024, 16, 4096, 512, false, 2048},
    {"1.3b", 24, 2048, 32, 8192, 2048, true, 2048},    {"2.7b", 32, 2560, 32, 10240, 2560, true, 2048},
    {"6.7b", 32, 4096, 32, 16384, 4096, true, 2048},   {"13b", 40, 5120, 40, 20480, 5120, true, 2048},
    {"30b", 48, 7168, 56, 28672, 7168, true, 2048},    {"66b", 64, 9216, 72, 36864, 9216, true, 2048},
    {"175b", 96, 12288, 96, 49152, 12288, true, 2048},
};

class FieldReader {
 public:
  FieldReader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  bool has(const char* name) const { return json_.contains(name) && !json_[name].is_null(); }
  int64_t positive(const char* name, int64_t otherwise) const {
    if (!has(name)) return otherwise;
    const Json& value = json_[name];
    if (!value.is_number_integer() || value.get<int64_t>() <= 0 || value.get<int64_t>() > (int64_t{1} << 31))
      fail("{}: {} is {}, but must be a positive whole number", where_, name, value.dump());
    return value.get<int64_t>();
  }
  int64_t token(const char* name, int64_t otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_number_integer())
      fail("{}: {} is {}, but must be a whole number", where_, name, json_[name].dump());
    return json_[name].get<int64_t>();
  }
  /// One id, or a list of them.
  std::vector<int64_t> tokens(const char* name, std::vector<int64_t> otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_array()) return {token(name, 0)};
    std::vector<int64_t> ids;
    for (const Json& id : json_[name]) {
      if (!id.is_number_integer()) fail("{}: {} holds {}, which is no token id", where_, name, id.dump());
      ids.push_back(id.get<int64_t>());
    }
    return ids;
  }
  bool truth(const char* name, bool otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_boolean()) fail("{}: {} is {}, but must be true or false", where_, name, json_[name].dump());
    return json_[name].get<bool>();
  }
  double real(const char* name, double otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_number()) fail("{}: {} is {}, but must be a number", where_, name, json_[name].dump());
    return json_[name].get<double>();
  }
  std::string text(const char* name, const std::string& otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_string()) fail("{}: {} is {}, but must be text", where_, name, json_[name].dump());
    return json_[name].get<std::string>();
  }

 private:
  const Json& json_;
  const std::string& where_;
};

}  // namespace

int64_t OptConfig::matrix_parameter_count() const {
  const int64_t layer = 4 * hidden_size * hidden_size + 2 * hidden_size * ffn_dim;
  const int64_t projections = has_projections() ? 2 * word_embed_proj_dim * hidden_size : 0;
  return num_hidden_layers * layer + projections + vocab_size * word_embed_proj_dim;
}

double OptConfig::forward_flops_per_token(int64_t sequence_length) const {
  return 2.0 * static_cast<double>(matrix_parameter_count()) +
         4.0 * static_cast<double>(num_hidden_layers * hidden_size) * static_cast<double>(sequence_length) / 2.0;
}

OptConfig parse_opt_config(const Json& json, const std::string& where) {
  if (!json.is_object()) fail("{}: not a JSON object", where);
  const FieldReader read(json, where);
  const std::string model_type = read.text("model_type", "");
  if (model_type != "opt") fail("{}: model_type is '{}', but only 'opt' models are understood", where, model_type);
  OptConfig config;
  config.vocab_size = read.positive("vocab_size", config.vocab_size);
  config.hidden_size = read.positive("hidden_size", config.hidden_size);
  config.num_hidden_layers = read.positive("num_hidden_layers", config.num_hidden_layers);
  config.num_attention_heads = read.positive("num_attention_heads", config.num_attention_heads);
  config.ffn_dim = read.positive("ffn_dim", config.ffn_dim);
  config.max_position_embeddings = read.positive("max_position_embeddings", config.max_position_embeddings);
  config.word_embed_proj_dim = read.positive("word_embed_proj_dim", config.hidden_size);
  config.do_layer_norm_before = read.truth("do_layer_norm_before", config.do_layer_norm_before);
  config.remove_final_layer_norm = read.truth("_remove_final_layer_norm", config.remove_final_layer_norm);
  config.enable_bias = read.truth("enable_bias", config.enable_bias);
  config.layer_norm_elementwise_affine =
      read.truth("layer_norm_elementwise_affine", config.layer_norm_elementwise_affine);
  config.dropout = read.real("dropout", config.dropout);
  config.attention_dropout = read.real("attention_dropout", config.attention_dropout);
  config.init_std = read.real("init_std", config.init_std);
  config.pad_token_id = read.token("pad_token_id", config.pad_token_id);
  config.bos_token_id = read.token("bos_token_id", config.bos_token_id);
  config.eos_token_ids = read.tokens("eos_token_id", {2});
  const std::string activation = read.text("activation_function", "relu");
  if (activation == "relu") {
    config.activation_function = OptActivation::relu;
  } else if (activation == "gelu") {
    config.activation_function = OptActivation::gelu;
  } else {
    fail("{}: activation_function is '{}'; relu and gelu are understood", where, activation);
  }
  if (!read.truth("tie_word_embeddings", true))
    fail("{}: tie_word_embeddings is false; OPT's input and output matrices are one", where);
  if (config.hidden_size % config.num_attention_heads != 0)
    fail("{}: hidden_size {} is not a multiple of num_attention_heads {}", where, config.hidden_size,
         config.num_attention_heads);
  return config;
}

OptConfig read_opt_config(const std::filesystem::path& config_json) {
  OptConfig config = parse_opt_config(read_json_file(config_json), config_json.string());
  const std::filesystem::path generation = config_json.parent_path() / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const Json json = read_json_file(generation);
    const std::string where = generation.string();
    if (!json.is_object()) fail("{}: must be an object", where);
    // Generation ends at any of these, whatever config.json names.
    config.eos_token_ids = FieldReader(json, where).tokens("eos_token_id", config.eos_token_ids);
  }
  return config;
}

Json opt_config_json(const OptConfig& config, const std::string& torch_dtype) {
  const Json eos = config.eos_token_ids.size() == 1 ? Json(config.eos_token_ids.front()) : Json(config.eos_token_ids);
  return {{"architectures", {"OPTForCausalLM"}},
          {"model_type", "opt"},
          {"vocab_size", config.vocab_size},
          {"hidden_size", config.hidden_size},
          {"num_hidden_layers", config.num_hidden_layers},
          {"num_attention_heads", config.num_attention_heads},
          {"ffn_dim", config.ffn_dim},
          {"max_position_embeddings", config.max_position_embeddings},
          {"word_embed_proj_dim", config.word_embed_proj_dim},
          {"do_layer_norm_before", config.do_layer_norm_before},
          {"_remove_final_layer_norm", config.remove_final_layer_norm},
          {"activation_function", config.activation_function == OptActivation::relu ? "relu" : "gelu"},
          {"enable_bias", config.enable_bias},
          {"layer_norm_elementwise_affine", config.layer_norm_elementwise_affine},
          {"dropout", config.dropout},
          {"attention_dropout", config.attention_dropout},
          {"layerdrop", 0.0},
          {"init_std", config.init_std},
          {"pad_token_id", config.pad_token_id},
          {"bos_token_id", config.bos_token_id},
          {"eos_token_id", eos},
          {"tie_word_embeddings", true},
          {"use_cache", true},
          {"torch_dtype", torch_dtype}};
}

OptConfig opt_preset(const std::string& name) {
  for (const Preset& preset : kPresets) {
    if (name != preset.name) continue;
    OptConfig config;
    config.num_hidden_layers = preset.layers;
    config.hidden_size = preset.hidden_size;
    config.num_attention_heads = preset.heads;
    config.ffn_dim = preset.ffn_dim;
    config.word_embed_proj_dim = preset.projection;
    config.do_layer_norm_before = preset.pre_norm;
    config.max_position_embeddings = preset.positions;
    return config;
  }
  std::string names;
  for (const Preset& preset : kPresets) names += std::string(names.empty() ? "" : ", ") + preset.name;
  fail_usage("--preset {}: unknown; use one of {}", name, names);
}

std::vector<std::string> opt_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

}  // namespace cbtm
