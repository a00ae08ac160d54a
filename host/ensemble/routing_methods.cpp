#include "cbtm/ensemble/routing_methods.h"

#include "cbtm/base/error.h"
#include "cbtm/route/expert_prior.h"

namespace cbtm {

std::vector<std::shared_ptr<const RoutingMethod>> routing_methods(std::span<const RouterSpec> specs,
                                                                  const ExpertSet& experts,
                                                                  std::span<const Mixture> mixtures) {
  CBTM_ASSERT(!mixtures.empty(), "the command line has a default");
  const int64_t clusters = experts.router().clusters();
  const std::vector<uint8_t>& present = experts.present();
  std::vector<std::shared_ptr<const RoutingMethod>> methods;
  const auto add = [&](const RouterSpec& spec, int64_t top_k, const std::vector<double>& prior) {
    if (spec.by_distance()) {
      const Router& router = experts.router_of(router_kind_name(spec.kind));
      const Mixture& usual = &router == &experts.router() ? mixtures.front() : router.defaults();
      methods.push_back(distance_routing({.top_k = top_k,
                                          .temperature = spec.temperature.value_or(usual.temperature),
                                          .distance_power = spec.distance_power.value_or(usual.distance_power)},
                                         present, spec.text, &router));
    } else if (spec.kind == RouterKind::uniform) {
      methods.push_back(uniform_routing(present));
    } else {
      methods.push_back(posterior_routing({.likelihood = spec.likelihood,
                                           .prior = prior,
                                           .updating = spec.updating,
                                           .top_k = prior.empty() ? 0 : top_k,
                                           .first_from_all = spec.first_from_all},
                                          present, spec.text));
    }
  };
  for (const RouterSpec& spec : specs) {
    std::vector<double> prior;
    if (!spec.prior.empty()) prior = read_expert_prior(spec.prior, clusters, experts.router().content_hash()).prior;
    if (!spec.takes_top_k() || spec.top_k) {
      add(spec, spec.top_k.value_or(0) == 0 ? clusters : *spec.top_k, prior);
    } else {
      for (const Mixture& mixture : mixtures) add(spec, mixture.top_k, prior);
    }
  }
  return methods;
}

}  // namespace cbtm
