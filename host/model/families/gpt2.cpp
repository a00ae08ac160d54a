// GPT-2: configuration and tensor names (docs/gpt2-format.md). Its linear layers are stored as [in, out], and queries,
// keys and values in one tensor, columns one after another.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "cbtm/base/foreign_file.h"
#include "model/families/config_values.h"
#include "model/families/family.h"

namespace cbtm {
namespace {

struct NamedActivation {
  const char* name;
  Activation activation;
};
constexpr NamedActivation kActivations[] = {{"gelu_new", Activation::gelu_tanh},
                                            {"gelu", Activation::gelu},
                                            {"gelu_fast", Activation::gelu_tanh},
                                            {"gelu_pytorch_tanh", Activation::gelu_tanh}};

Activation activation_of(const JsonReader& read, const std::string& where) {
  const std::string name = read.text_or("activation_function", "gelu_new");
  for (const NamedActivation& known : kActivations)
    if (name == known.name) return known.activation;
  fail("{}: activation_function is '{}'; gelu, gelu_new, gelu_fast and gelu_pytorch_tanh are understood", where,
       shown_text(name));
}

const char* activation_name(const ModelSpec& spec) {
  return spec.block(0).feed_forward.activation == Activation::gelu ? "gelu" : "gelu_new";
}

/// Settings that would change the computation.
void refuse_variants(const JsonReader& read, const std::string& where) {
  if (!read.truth_or("scale_attn_weights", true))
    fail("{}: scale_attn_weights is false, which is not supported; scores are divided by sqrt(head size)", where);
  if (read.truth_or("scale_attn_by_inverse_layer_idx", false))
    fail("{}: scale_attn_by_inverse_layer_idx is true, which is not supported", where);
  if (read.truth_or("add_cross_attention", false))
    fail("{}: add_cross_attention is true; cross attention is not supported", where);
  if (read.has("quantization_config"))
    fail("{}: has a quantization_config; take the repository that the quantised weights were made from", where);
}

class Gpt2Family final : public ModelFamily {
 public:
  std::string_view model_type() const override { return "gpt2"; }
  std::string_view title() const override { return "GPT-2"; }

  ModelSpec parse(const JsonReader& read, const std::string& where) const override {
    refuse_variants(read, where);
    const auto size = [&](const char* name, int64_t high) { return read.integer(name, 1, high); };
    ModelSpec spec;
    spec.embedding.vocab_size = size("vocab_size", kVocabularyMax);
    spec.hidden_size = size("n_embd", kHiddenMax);
    spec.embedding.width = spec.hidden_size;
    spec.embedding.max_length = size("n_positions", kPositionsMax);
    const int64_t layers = size("n_layer", kLayersMax);
    const int64_t heads = size("n_head", kHiddenMax);
    const int64_t feed_forward = read.integer_or("n_inner", 4 * spec.hidden_size, 1, kFeedForwardMax);
    const NormSpec norm{.affine = true, .epsilon = read.number_or("layer_norm_epsilon", 1e-5)};
    if (!(norm.epsilon > 0 && norm.epsilon < 1))
      fail("{}: layer_norm_epsilon is {}, but must lie between 0 and 1", where, norm.epsilon);
    const Activation activation = activation_of(read, where);
    spec.tied_output = read.truth_or("tie_word_embeddings", true);
    spec.initial_deviation = read.number_or("initializer_range", 0.02);
    spec.pad_token_id = read.integer_or("pad_token_id", -1);
    spec.bos_token_id = read.integer_or("bos_token_id", 50256);
    spec.eos_token_ids = end_tokens(read, {50256});
    spec.family_settings = Json::object();
    for (const char* dropout : {"attn_pdrop", "embd_pdrop", "resid_pdrop"})
      spec.family_settings[dropout] = read.number_or(dropout, 0.1);
    if (spec.hidden_size % heads != 0)
      fail("{}: n_embd {} is not a multiple of n_head {}", where, spec.hidden_size, heads);
    spec.blocks.assign(static_cast<size_t>(layers),
                       {.norm_place = NormPlace::before,
                        .attention_norm = norm,
                        .feed_forward_norm = norm,
                        .attention = {.heads = heads, .head_dim = spec.hidden_size / heads, .biases = true},
                        .feed_forward = {.width = feed_forward, .activation = activation, .biases = true}});
    spec.final_norm = norm;
    return spec;
  }

  Json config_json(const ModelSpec& spec) const override {
    const BlockSpec& block = spec.block(0);
    Json json = {{"architectures", {"GPT2LMHeadModel"}},
                 {"model_type", "gpt2"},
                 {"vocab_size", spec.embedding.vocab_size},
                 {"n_embd", spec.hidden_size},
                 {"n_layer", spec.layers()},
                 {"n_head", block.attention.heads},
                 {"n_inner", block.feed_forward.width},
                 {"n_positions", spec.embedding.max_length},
                 {"activation_function", activation_name(spec)},
                 {"layer_norm_epsilon", block.attention_norm.epsilon},
                 {"initializer_range", spec.initial_deviation},
                 {"bos_token_id", spec.bos_token_id},
                 {"eos_token_id", end_tokens_json(spec.eos_token_ids)},
                 {"tie_word_embeddings", spec.tied_output},
                 {"use_cache", true}};
    if (spec.pad_token_id >= 0) json["pad_token_id"] = spec.pad_token_id;
    json.update(spec.family_settings);
    return json;
  }

  std::string architecture_text(const ModelSpec& spec) const override {
    const BlockSpec& block = spec.block(0);
    return fmt::format("gpt2 {} {} {} {} {} {} {} {} {}\n", spec.embedding.vocab_size, spec.hidden_size, spec.layers(),
                       block.attention.heads, block.feed_forward.width, spec.embedding.max_length,
                       activation_name(spec), block.attention_norm.epsilon, spec.tied_output);
  }

  StoredPlace place(const ModelSpec&, const Parameter& parameter) const override {
    const bool weight = parameter.part == ParameterPart::weight;
    const int64_t rows = parameter.is_matrix ? parameter.rows : parameter.columns;
    const auto named = [&](const std::string& module) {
      return StoredPlace{.tensor = module + (weight ? ".weight" : ".bias"), .tensor_rows = rows};
    };
    const auto of_layer = [&](const char* module) { return named(fmt::format("h.{}.{}", parameter.layer, module)); };
    const auto linear = [&](const char* module) {
      StoredPlace place = of_layer(module);
      place.transposed = weight;
      return place;
    };
    const auto joined = [&](int64_t number) {
      StoredPlace place = linear("attn.c_attn");
      place.first_row = number * rows;
      place.tensor_rows = 3 * rows;
      return place;
    };
    switch (parameter.role) {
      case ParameterRole::token_embedding: return named("wte");
      case ParameterRole::position_embedding: return named("wpe");
      case ParameterRole::output_matrix: return {.tensor = std::string(output_matrix()), .tensor_rows = rows};
      case ParameterRole::query: return joined(0);
      case ParameterRole::key: return joined(1);
      case ParameterRole::value: return joined(2);
      case ParameterRole::attention_output: return linear("attn.c_proj");
      case ParameterRole::feed_forward_in: return linear("mlp.c_fc");
      case ParameterRole::feed_forward_out: return linear("mlp.c_proj");
      case ParameterRole::attention_norm: return of_layer("ln_1");
      case ParameterRole::feed_forward_norm: return of_layer("ln_2");
      case ParameterRole::final_norm: return named("ln_f");
      case ParameterRole::router:
      case ParameterRole::input_projection:
      case ParameterRole::output_projection: break;
    }
    CBTM_ASSERT(false, "GPT-2 has neither embedding projections nor mixtures");
  }

  std::string_view output_matrix() const override { return "lm_head.weight"; }
  std::string_view anchor() const override { return "wpe.weight"; }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::array<std::string_view, 2> kPrefixes = {"transformer.", ""};
    return kPrefixes;
  }
  bool refuses_unknown() const override { return true; }
  /// h.N.attn.bias and h.N.attn.masked_bias: tables of the causal mask.
  bool leftover(std::string_view name) const override {
    if (!name.starts_with("h.")) return false;
    const size_t dot = name.find('.', 2);
    if (dot == std::string_view::npos || !std::all_of(name.begin() + 2, name.begin() + static_cast<std::ptrdiff_t>(dot),
                                                      [](unsigned char c) { return std::isdigit(c) != 0; }))
      return false;
    return name.substr(dot) == ".attn.bias" || name.substr(dot) == ".attn.masked_bias";
  }
};

}  // namespace

const ModelFamily& gpt2_family() {
  static const Gpt2Family family;
  return family;
}

}  // namespace cbtm
