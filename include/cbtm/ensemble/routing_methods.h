#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cbtm/ensemble/expert_set.h"
#include "cbtm/route/mixture.h"
#include "cbtm/route/router_spec.h"
#include "cbtm/route/routing_method.h"

namespace cbtm {

/// The routers that `specs` name, for these experts. One that takes a number of experts, and does not name it itself,
/// is there once for each of `mixtures`, which must not be empty; from the first come temperature and power where a
/// spec of the experts' own router names none. Another router of the same clusters (ExpertSet::router_of) has its own
/// defaults. Reads the files of priors. Throws Error if one does not belong to these experts.
std::vector<std::shared_ptr<const RoutingMethod>> routing_methods(std::span<const RouterSpec> specs,
                                                                  const ExpertSet& experts,
                                                                  std::span<const Mixture> mixtures);

}  // namespace cbtm
