#include "cbtm/model/opt_config.h"

#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"

namespace cbtm {
namespace {

/// A preset's shape; everything else is the default.
struct Preset {
  const char* name;
  int64_t layers, hidden_size, heads, ffn_dim, projection;
  bool pre_norm;
  int64_t positions;
};

// The published sizes, and before them small ones of ours for a laptop (docs/opt-format.md, 'Presets').
constexpr Preset kPresets[] = {
    {"nano", 2, 64, 2, 256, 64, true, 1024},           {"micro", 3, 128, 4, 512, 128, true, 1024},
    {"mini", 4, 192, 6, 768, 192, true, 1024},         {"small", 6, 384, 6, 1536, 384, true, 1024},
    {"125m", 12, 768, 12, 3072, 768, true, 2048},      {"350m", 24, 1024, 16, 4096, 512, false, 2048},
    {"1.3b", 24, 2048, 32, 8192, 2048, true, 2048},    {"2.7b", 32, 2560, 32, 10240, 2560, true, 2048},
    {"6.7b", 32, 4096, 32, 16384, 4096, true, 2048},   {"13b", 40, 5120, 40, 20480, 5120, true, 2048},
    {"30b", 48, 7168, 56, 28672, 7168, true, 2048},    {"66b", 64, 9216, 72, 36864, 9216, true, 2048},
    {"175b", 96, 12288, 96, 49152, 12288, true, 2048},
};

constexpr int64_t kConfigBytesMax = 16 << 20;

// Above what any OPT has; the sizes of all tensors stay far within 64 bits.
constexpr int64_t kVocabularyMax = 1 << 24, kHiddenMax = 1 << 18, kFfnMax = 1 << 20, kLayersMax = 4096,
                  kPositionsMax = 1 << 24;

/// "'llama' (LlamaForCausalLM)", of whatever config.json this is.
std::string found_model(const JsonReader& read) {
  std::string text = read.has("model_type") ? "'" + shown_text(read.text("model_type")) + "'" : "missing";
  const Json& json = read.json();
  if (read.has("architectures") && json["architectures"].is_array() && !json["architectures"].empty() &&
      json["architectures"][0].is_string())
    text += " (" + shown_text(json["architectures"][0].get_ref<const std::string&>()) + ")";
  return text;
}

/// One id, or a list of them.
std::vector<int64_t> end_tokens(const JsonReader& read, std::vector<int64_t> otherwise) {
  constexpr const char* kKey = "eos_token_id";
  if (!read.has(kKey)) return otherwise;
  return read.json()[kKey].is_array() ? read.integers(kKey) : std::vector<int64_t>{read.integer(kKey)};
}

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

std::string OptConfig::architecture_text() const {
  return fmt::format("opt {} {} {} {} {} {} {} {} {} {} {} {}\n", vocab_size, hidden_size, num_hidden_layers,
                     num_attention_heads, ffn_dim, max_position_embeddings, word_embed_proj_dim, do_layer_norm_before,
                     remove_final_layer_norm, activation_function == OptActivation::relu ? "relu" : "gelu", enable_bias,
                     layer_norm_elementwise_affine);
}

OptConfig parse_opt_config(const Json& json, const std::string& where) {
  const JsonReader read(json, where);
  if (read.text_or("model_type", "") != "opt")
    fail("{}: model_type is {}, but only 'opt' models are understood", where, found_model(read));
  const auto size = [&](const char* name, int64_t otherwise, int64_t high) {
    return read.integer_or(name, otherwise, 1, high);
  };
  OptConfig config;
  config.vocab_size = size("vocab_size", config.vocab_size, kVocabularyMax);
  config.hidden_size = size("hidden_size", config.hidden_size, kHiddenMax);
  config.num_hidden_layers = size("num_hidden_layers", config.num_hidden_layers, kLayersMax);
  config.num_attention_heads = size("num_attention_heads", config.num_attention_heads, kHiddenMax);
  config.ffn_dim = size("ffn_dim", config.ffn_dim, kFfnMax);
  config.max_position_embeddings = size("max_position_embeddings", config.max_position_embeddings, kPositionsMax);
  config.word_embed_proj_dim = size("word_embed_proj_dim", config.hidden_size, kHiddenMax);
  config.do_layer_norm_before = read.truth_or("do_layer_norm_before", config.do_layer_norm_before);
  config.remove_final_layer_norm = read.truth_or("_remove_final_layer_norm", config.remove_final_layer_norm);
  config.enable_bias = read.truth_or("enable_bias", config.enable_bias);
  config.layer_norm_elementwise_affine =
      read.truth_or("layer_norm_elementwise_affine", config.layer_norm_elementwise_affine);
  config.dropout = read.number_or("dropout", config.dropout);
  config.attention_dropout = read.number_or("attention_dropout", config.attention_dropout);
  config.init_std = read.number_or("init_std", config.init_std);
  config.pad_token_id = read.integer_or("pad_token_id", config.pad_token_id);
  config.bos_token_id = read.integer_or("bos_token_id", config.bos_token_id);
  config.eos_token_ids = end_tokens(read, {2});
  const std::string activation = read.text_or("activation_function", "relu");
  if (activation == "relu") {
    config.activation_function = OptActivation::relu;
  } else if (activation == "gelu") {
    config.activation_function = OptActivation::gelu;
  } else {
    fail("{}: activation_function is '{}'; relu and gelu are understood", where, shown_text(activation));
  }
  if (!read.truth_or("tie_word_embeddings", true))
    fail("{}: tie_word_embeddings is false; OPT's input and output matrices are one", where);
  if (config.hidden_size % config.num_attention_heads != 0)
    fail("{}: hidden_size {} is not a multiple of num_attention_heads {}", where, config.hidden_size,
         config.num_attention_heads);
  return config;
}

OptConfig read_opt_config(const std::filesystem::path& config_json) {
  OptConfig config = parse_opt_config(read_json_file(config_json, kConfigBytesMax), config_json.string());
  const std::filesystem::path generation = config_json.parent_path() / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const Json json = read_json_file(generation, kConfigBytesMax);
    // Generation ends at any of these, whatever config.json names.
    config.eos_token_ids = end_tokens(JsonReader(json, generation.string()).as_object(), config.eos_token_ids);
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
