#include "cbtm/model/upcycle.h"

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/moe_operands.h"
#include "cbtm/model/families.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {
namespace {

void draw_router(const Upcycling& upcycling, double deviation, int64_t layer, std::span<float> values) {
  PhiloxStream random(upcycling.seed, static_cast<uint64_t>(layer));
  for (float& value : values) {
    if (upcycling.router_init == RouterInit::normal)
      value = static_cast<float>(deviation * random.next_normal());
    else
      value = to_float(to_f16(static_cast<float>(random.next_uniform())));
  }
}

}  // namespace

Json upcycling_json(const Upcycling& upcycling) {
  return {{"experts", upcycling.experts},
          {"layers", upcycling.layers},
          {"router_init", upcycling.router_init == RouterInit::uniform ? "uniform" : "normal"},
          {"router_seed", upcycling.seed},
          {"balance_weight", upcycling.balance_weight}};
}

std::vector<int64_t> odd_layers(const ModelSpec& dense) {
  std::vector<int64_t> layers;
  for (int64_t layer = 1; layer < dense.layers(); layer += 2) layers.push_back(layer);
  if (layers.empty()) fail("a model of one layer has no odd layers to make mixtures of; name layer 0, or all");
  return layers;
}

ModelSpec upcycled_spec(const ModelSpec& dense, const Upcycling& upcycling) {
  if (dense.has_mixtures()) fail("the model is a mixture of experts already");
  const std::string family = family_with_mixtures(dense);
  if (family.empty()) fail("a mixture of experts can be made of an OPT model, but this is {}", family_title(dense));
  if (upcycling.experts < kExpertsPerToken || upcycling.experts > kMaxExperts)
    fail("a mixture of {} experts: from {} to {} are possible", upcycling.experts, kExpertsPerToken, kMaxExperts);
  ModelSpec spec = dense;
  spec.family = family;
  CBTM_ASSERT(!upcycling.layers.empty(), "the caller names layers");
  for (const int64_t layer : upcycling.layers) {
    if (layer < 0 || layer >= spec.layers())
      fail("layer {} cannot be a mixture of experts: the layers are 0 to {}", layer, spec.layers() - 1);
    FeedForwardSpec& feed_forward = spec.blocks[static_cast<size_t>(layer)].feed_forward;
    feed_forward.experts = upcycling.experts;
    feed_forward.balance_weight = upcycling.balance_weight;
  }
  return spec;
}

void upcycle_parameters(const ModelSpec& dense, const Upcycling& upcycling, std::span<const float> parameters,
                        std::span<float> flat) {
  const ModelSpec spec = upcycled_spec(dense, upcycling);
  const ParameterLayout from(dense), to(spec);
  CBTM_ASSERT(static_cast<int64_t>(parameters.size()) == from.flat_size(), "parameters come in layout order");
  CBTM_ASSERT(static_cast<int64_t>(flat.size()) == to.flat_size(), "a flat buffer has the layout's size");
  for (const Parameter& parameter : to.parameters()) {
    const auto target = flat.subspan(static_cast<size_t>(parameter.offset), static_cast<size_t>(parameter.size()));
    if (parameter.role == ParameterRole::router) {
      draw_router(upcycling, dense.initial_deviation, parameter.layer, target);
      continue;
    }
    const Parameter* source = from.find(parameter.role, parameter.part, parameter.layer);
    CBTM_ASSERT(source != nullptr && source->size() == parameter.size(), "all but routers comes from the dense model");
    std::copy_n(parameters.data() + source->offset, parameter.size(), target.begin());
  }
}

}  // namespace cbtm
