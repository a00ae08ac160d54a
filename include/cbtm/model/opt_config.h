#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

enum class OptActivation : uint8_t { relu, gelu };

/// An OPT model's shape: the fields of config.json (docs/opt-format.md, 'Configuration'), with its defaults.
struct OptConfig {
  int64_t vocab_size = 50272;
  int64_t hidden_size = 768;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 12;
  int64_t ffn_dim = 3072;
  int64_t max_position_embeddings = 2048;  ///< embed_positions has two rows more; the first row used is 2
  int64_t word_embed_proj_dim = 768;       ///< differs from hidden_size exactly when project_in / project_out exist
  bool do_layer_norm_before = true;        ///< false: post-norm (350m)
  bool remove_final_layer_norm = false;
  OptActivation activation_function = OptActivation::relu;
  bool enable_bias = true;
  bool layer_norm_elementwise_affine = true;
  double dropout = 0.1;  ///< read and written; the trainer's own --dropout decides
  double attention_dropout = 0.0;
  double init_std = 0.02;
  int64_t pad_token_id = 1;
  int64_t bos_token_id = 2;
  std::vector<int64_t> eos_token_ids = {2};

  int64_t head_dim() const { return hidden_size / num_attention_heads; }
  bool has_projections() const { return word_embed_proj_dim != hidden_size; }
  bool has_final_layer_norm() const { return do_layer_norm_before && !remove_final_layer_norm; }

  /// Parameters that are multiplied for every token: layers, projections and the output matrix.
  int64_t matrix_parameter_count() const;
  /// Forward flops of one token at mean context `sequence_length` / 2; training takes 3 times that (docs/numerics.md,
  /// 'FLOPs per token').
  double forward_flops_per_token(int64_t sequence_length) const;

  /// What of config.json the meaning of the weights depends on, as one line: it is part of a model's weights_hash, and
  /// models that can be averaged have the same one.
  std::string architecture_text() const;

  friend bool operator==(const OptConfig&, const OptConfig&) = default;
};

/// Reads config.json's object. Throws Error naming `where` and the field: wrong type, not positive, hidden_size not a
/// multiple of num_attention_heads, unknown activation, model_type other than "opt".
OptConfig parse_opt_config(const Json& json, const std::string& where);
OptConfig read_opt_config(const std::filesystem::path& config_json);

/// The object to write as config.json; `torch_dtype` as transformers names it ("float32").
Json opt_config_json(const OptConfig& config, const std::string& torch_dtype);

/// "125m" .. "175b" as published (docs/opt-format.md, 'Presets'), and small ones of ours for laptops. Throws a usage
/// Error that lists the names.
OptConfig opt_preset(const std::string& name);
std::vector<std::string> opt_preset_names();

}  // namespace cbtm
