// OPT with mixtures of experts in some layers: the keys and tensors beyond OPT's (docs/opt-moe-format.md).
#include <fmt/ranges.h>

#include "cbtm/base/foreign_file.h"
#include "cbtm/device/moe_operands.h"
#include "model/families/opt.h"

namespace cbtm {
namespace {

constexpr const char* kExperts = "num_experts";
constexpr const char* kExpertsOfToken = "experts_per_token";
constexpr const char* kLayers = "moe_layers";
constexpr const char* kBalanceWeight = "router_aux_loss_coef";
constexpr double kBalanceWeightMax = 1e6;

std::vector<int64_t> mixture_layers(const JsonReader& read, int64_t layers, const std::string& where) {
  if (!read.has(kLayers))
    fail("{}: has {}, but no {}: a list of the layers that are mixtures", where, kExperts, kLayers);
  std::vector<int64_t> mixtures = read.integers(kLayers);
  if (mixtures.empty()) fail("{}: {} is empty; a model without mixtures is a plain opt", where, kLayers);
  int64_t before = -1;
  for (const int64_t layer : mixtures) {
    if (layer < 0 || layer >= layers)
      fail("{}: {} names layer {}, but the layers are 0 to {}", where, kLayers, layer, layers - 1);
    if (layer <= before) fail("{}: {} names layer {} after {}; it must be ascending", where, kLayers, layer, before);
    before = layer;
  }
  return mixtures;
}

class OptMoeFamily final : public OptFamily {
 public:
  std::string_view model_type() const override { return "opt_moe"; }
  std::string_view title() const override { return "OPT mixture of experts"; }
  const ModelFamily& of_config(const JsonReader&) const override { return *this; }

  ModelSpec parse(const JsonReader& read, const std::string& where) const override {
    ModelSpec spec = OptFamily::parse(read, where);
    if (!read.has(kExperts)) fail("{}: a mixture of experts without {}", where, kExperts);
    const int64_t experts = read.integer(kExperts, kExpertsPerToken, kMaxExperts);
    if (!read.has(kExpertsOfToken)) fail("{}: has {}, but no {}", where, kExperts, kExpertsOfToken);
    if (const int64_t count = read.integer(kExpertsOfToken); count != kExpertsPerToken)
      fail("{}: {} is {}; only mixtures with two experts for each token are understood", where, kExpertsOfToken, count);
    const double weight = read.number_or(kBalanceWeight, 0.01);
    if (!(weight >= 0 && weight <= kBalanceWeightMax))
      fail("{}: {} is {}, but must lie between 0 and {}", where, kBalanceWeight, weight, kBalanceWeightMax);
    for (const int64_t layer : mixture_layers(read, spec.layers(), where)) {
      FeedForwardSpec& feed_forward = spec.blocks[static_cast<size_t>(layer)].feed_forward;
      feed_forward.experts = experts;
      feed_forward.balance_weight = weight;
    }
    return spec;
  }

  Json config_json(const ModelSpec& spec) const override {
    Json json = OptFamily::config_json(spec);
    const std::vector<int64_t> layers = spec.mixture_layers();
    json["model_type"] = model_type();
    json["architectures"] = {"OPTMoEForCausalLM"};
    json[kExperts] = spec.experts();
    json[kExpertsOfToken] = kExpertsPerToken;
    json[kLayers] = layers;
    json[kBalanceWeight] = spec.block(layers.front()).feed_forward.balance_weight;
    return json;
  }

  std::string architecture_text(const ModelSpec& spec) const override {
    return fmt::format("{}moe {} {}\n", OptFamily::architecture_text(spec), spec.experts(),
                       fmt::join(spec.mixture_layers(), ","));
  }

  StoredPlace place(const ModelSpec& spec, const Parameter& parameter) const override {
    StoredPlace place = OptFamily::place(spec, parameter);
    const std::string layer = fmt::format("layers.{}.", parameter.layer);
    if (parameter.role == ParameterRole::router)
      place.tensor = layer + "moe.router.weight";
    else if (parameter.expert >= 0)  // "layers.1.fc1.weight" of expert 3 becomes "layers.1.moe.experts.3.fc1.weight"
      place.tensor = fmt::format("{}moe.experts.{}.{}", layer, parameter.expert, place.tensor.substr(layer.size()));
    return place;
  }

  /// A feed-forward in a mixture's place, or a mixture in a feed-forward's.
  bool refuses_unknown() const override { return true; }
  void check_name(const std::string& stored_name, const std::string& where) const override {
    if (!names_expert(stored_name)) OptFamily::check_name(stored_name, where);
  }
};

}  // namespace

const ModelFamily& opt_moe_family() {
  static const OptMoeFamily family;
  return family;
}

bool has_mixture_keys(const JsonReader& config) {
  return config.has(kExperts) || config.has(kExpertsOfToken) || config.has(kLayers);
}

}  // namespace cbtm
