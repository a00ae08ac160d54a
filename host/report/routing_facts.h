#pragma once

#include <optional>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm::report {

/// What the router of one mixture of experts did in a step, as shares.
struct RoutingFacts {
  double layer = 0;
  double busiest = 0, idlest = 0;  ///< share of an expert in the choices before dropping, over the even share
  double dropped = 0;              ///< of all choices
  double without_expert = 0;       ///< of the tokens: both choices were dropped
  double entropy = 0;              ///< mean of the gates', over that of even gates
  double balance_loss = 0;
};

/// A step of metrics.jsonl: one entry for each mixture; empty if the line tells of none.
struct RoutingPoint {
  double tokens = 0;
  std::vector<RoutingFacts> layers;
};

/// Of a line of metrics.jsonl. What cannot be used is left out.
std::vector<RoutingFacts> routing_facts(const Json& line);

/// Means over the last tenth of the points, at least one; in the order of the last point's layers.
std::vector<RoutingFacts> final_routing(const std::vector<RoutingPoint>& points);

}  // namespace cbtm::report
