// OPT: configuration, tensor names and their older spellings (docs/opt-format.md).
#include "model/families/opt.h"

#include <fmt/format.h>

#include <array>

#include "cbtm/base/foreign_file.h"
#include "model/families/config_values.h"

namespace cbtm {
namespace {

constexpr int64_t kPositionOffset = 2;  // rows of embed_positions before the first that is used

Activation activation_of(const JsonReader& read, const std::string& where) {
  const std::string name = read.text_or("activation_function", "relu");
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  fail("{}: activation_function is '{}'; relu and gelu are understood", where, shown_text(name));
}

const char* activation_name(const ModelSpec& spec) {
  return spec.block(0).feed_forward.activation == Activation::relu ? "relu" : "gelu";
}

bool final_norm_removed(const ModelSpec& spec) { return spec.family_settings.value("_remove_final_layer_norm", false); }

}  // namespace

const ModelFamily& OptFamily::of_config(const JsonReader& config) const {
  return has_mixture_keys(config) ? opt_moe_family() : *this;
}

ModelSpec OptFamily::parse(const JsonReader& read, const std::string& where) const {
  const auto size = [&](const char* name, int64_t otherwise, int64_t high) {
    return read.integer_or(name, otherwise, 1, high);
  };
  ModelSpec spec;
  spec.embedding.vocab_size = size("vocab_size", 50272, kVocabularyMax);
  spec.hidden_size = size("hidden_size", 768, kHiddenMax);
  const int64_t layers = size("num_hidden_layers", 12, kLayersMax);
  const int64_t heads = size("num_attention_heads", 12, kHiddenMax);
  const int64_t feed_forward = size("ffn_dim", 3072, kFeedForwardMax);
  spec.embedding.max_length = size("max_position_embeddings", 2048, kPositionsMax);
  spec.embedding.position_offset = kPositionOffset;
  spec.embedding.width = size("word_embed_proj_dim", spec.hidden_size, kHiddenMax);
  const bool before = read.truth_or("do_layer_norm_before", true);
  const bool removed = read.truth_or("_remove_final_layer_norm", false);
  const bool biases = read.truth_or("enable_bias", true);
  const NormSpec norm{.affine = read.truth_or("layer_norm_elementwise_affine", true)};
  spec.family_settings = {{"_remove_final_layer_norm", removed},
                          {"dropout", read.number_or("dropout", 0.1)},
                          {"attention_dropout", read.number_or("attention_dropout", 0.0)}};
  spec.initial_deviation = read.number_or("init_std", 0.02);
  spec.pad_token_id = read.integer_or("pad_token_id", 1);
  spec.bos_token_id = read.integer_or("bos_token_id", 2);
  spec.eos_token_ids = end_tokens(read, {2});
  const Activation activation = activation_of(read, where);
  if (!read.truth_or("tie_word_embeddings", true))
    fail("{}: tie_word_embeddings is false; OPT's input and output matrices are one", where);
  if (spec.hidden_size % heads != 0)
    fail("{}: hidden_size {} is not a multiple of num_attention_heads {}", where, spec.hidden_size, heads);
  spec.blocks.assign(static_cast<size_t>(layers),
                     {.norm_place = before ? NormPlace::before : NormPlace::after,
                      .attention_norm = norm,
                      .feed_forward_norm = norm,
                      .attention = {.heads = heads, .head_dim = spec.hidden_size / heads, .biases = biases},
                      .feed_forward = {.width = feed_forward, .activation = activation, .biases = biases}});
  if (before && !removed) spec.final_norm = norm;
  return spec;
}

Json OptFamily::config_json(const ModelSpec& spec) const {
  const BlockSpec& block = spec.block(0);
  return {{"architectures", {"OPTForCausalLM"}},
          {"model_type", "opt"},
          {"vocab_size", spec.embedding.vocab_size},
          {"hidden_size", spec.hidden_size},
          {"num_hidden_layers", spec.layers()},
          {"num_attention_heads", block.attention.heads},
          {"ffn_dim", block.feed_forward.width},
          {"max_position_embeddings", spec.embedding.max_length},
          {"word_embed_proj_dim", spec.embedding.width},
          {"do_layer_norm_before", spec.pre_norm()},
          {"_remove_final_layer_norm", final_norm_removed(spec)},
          {"activation_function", activation_name(spec)},
          {"enable_bias", block.attention.biases},
          {"layer_norm_elementwise_affine", block.attention_norm.affine},
          {"dropout", spec.family_settings.value("dropout", 0.1)},
          {"attention_dropout", spec.family_settings.value("attention_dropout", 0.0)},
          {"layerdrop", 0.0},
          {"init_std", spec.initial_deviation},
          {"pad_token_id", spec.pad_token_id},
          {"bos_token_id", spec.bos_token_id},
          {"eos_token_id", end_tokens_json(spec.eos_token_ids)},
          {"tie_word_embeddings", true},
          {"use_cache", true}};
}

std::string OptFamily::architecture_text(const ModelSpec& spec) const {
  const BlockSpec& block = spec.block(0);
  return fmt::format("opt {} {} {} {} {} {} {} {} {} {} {} {}\n", spec.embedding.vocab_size, spec.hidden_size,
                     spec.layers(), block.attention.heads, block.feed_forward.width, spec.embedding.max_length,
                     spec.embedding.width, spec.pre_norm(), final_norm_removed(spec), activation_name(spec),
                     block.attention.biases, block.attention_norm.affine);
}

StoredPlace OptFamily::place(const ModelSpec&, const Parameter& parameter) const {
  const auto whole = [&](const std::string& module) {
    return StoredPlace{.tensor = module + (parameter.part == ParameterPart::weight ? ".weight" : ".bias"),
                       .tensor_rows = parameter.is_matrix ? parameter.rows : parameter.columns};
  };
  const auto of_layer = [&](const char* module) { return whole(fmt::format("layers.{}.{}", parameter.layer, module)); };
  switch (parameter.role) {
    case ParameterRole::token_embedding: return whole("embed_tokens");
    case ParameterRole::position_embedding: return whole("embed_positions");
    case ParameterRole::input_projection: return whole("project_in");
    case ParameterRole::output_projection: return whole("project_out");
    case ParameterRole::query: return of_layer("self_attn.q_proj");
    case ParameterRole::key: return of_layer("self_attn.k_proj");
    case ParameterRole::value: return of_layer("self_attn.v_proj");
    case ParameterRole::attention_output: return of_layer("self_attn.out_proj");
    case ParameterRole::feed_forward_in: return of_layer("fc1");
    case ParameterRole::feed_forward_out: return of_layer("fc2");
    case ParameterRole::attention_norm: return of_layer("self_attn_layer_norm");
    case ParameterRole::feed_forward_norm: return of_layer("final_layer_norm");
    case ParameterRole::final_norm: return whole("final_layer_norm");
    case ParameterRole::router: return of_layer("router");
    case ParameterRole::output_matrix: break;
  }
  CBTM_ASSERT(false, "OPT's output matrix is its token table");
}

std::span<const std::string_view> OptFamily::prefixes() const {
  static constexpr std::array<std::string_view, 3> kPrefixes = {"model.decoder.", "decoder.", ""};
  return kPrefixes;
}
bool OptFamily::leftover(std::string_view name) const {
  return name == "version" || name == "output_projection.weight";
}

void OptFamily::check_name(const std::string& stored_name, const std::string& where) const {
  if (stored_name.find("flat_param") != std::string::npos)
    fail("{}: a sharded FSDP checkpoint of metaseq ('{}'); consolidate it first", where, shown_text(stored_name));
  if (names_expert(stored_name))
    fail(
        "{}: holds a mixture of experts ('{}'), but its config.json has no num_experts, experts_per_token and "
        "moe_layers",
        where, shown_text(stored_name));
}

/// metaseq's own spelling of some names.
std::string OptFamily::current_name(std::string name) const {
  if (name.starts_with("project_in_dim.")) return "project_in." + name.substr(15);
  if (name.starts_with("project_out_dim.")) return "project_out." + name.substr(16);
  if (name.starts_with("layer_norm.")) return "final_" + name;
  return name;
}

/// A fused qkv_proj holds three equal blocks of rows, in the order k, v, q.
void OptFamily::separate(std::map<std::string, StoredTensor>& tensors, const std::string& where) const {
  std::vector<std::string> fused;
  for (const auto& [name, tensor] : tensors)
    if (name.find(".qkv_proj.") != std::string::npos) fused.push_back(name);
  for (const std::string& name : fused) {
    const StoredTensor whole = tensors[name];
    if (whole.shape.empty() || whole.shape[0] % 3 != 0)
      fail("{}: tensor '{}' cannot be cut in three", where, shown_text(name));
    if (whole.type == StoredType::other)
      fail("{}: tensor '{}' holds {}, which is not read", where, shown_text(name), whole.other_type);
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

std::string OptFamily::shape_problem(const ModelSpec& spec, const Parameter& parameter,
                                     const StoredTensor& tensor) const {
  if (parameter.role != ParameterRole::position_embedding || tensor.shape.size() != 2 ||
      tensor.shape[0] != spec.embedding.max_length)
    return {};
  return fmt::format(
      "tensor '{}' has {} rows; OPT's has max_position_embeddings + 2 = {} (the offset of 2 was forgotten)",
      tensor.name, tensor.shape[0], parameter.rows);
}

const ModelFamily& opt_family() {
  static const OptFamily family;
  return family;
}

}  // namespace cbtm
