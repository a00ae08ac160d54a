#include "report/routing_facts.h"

#include <algorithm>
#include <cmath>

#include "report/json_lookup.h"

namespace cbtm::report {
namespace {

constexpr size_t kChoices = 2;        ///< experts of a token
constexpr size_t kExpertsMax = 4096;  ///< more is damage

/// The counts of a list of one mixture; empty if it is none.
std::vector<double> counts(const Json& mixture, const char* key) {
  std::vector<double> values;
  const Json& list = find(mixture, {key});
  if (!list.is_array()) return values;
  for (const Json& value : list) values.push_back(value.is_number() ? value.get<double>() : NAN);
  return values;
}

std::optional<RoutingFacts> facts_of(const Json& mixture) {
  const std::vector<double> first = counts(mixture, "first_choices"), second = counts(mixture, "second_choices");
  if (first.size() < kChoices || first.size() > kExpertsMax || first.size() != second.size()) return std::nullopt;
  const auto experts = static_cast<double>(first.size());
  double tokens = 0, busiest = 0, idlest = INFINITY;
  for (size_t e = 0; e < first.size(); ++e) {
    tokens += first[e];
    busiest = std::max(busiest, first[e] + second[e]);
    idlest = std::min(idlest, first[e] + second[e]);
  }
  if (!(tokens > 0)) return std::nullopt;
  const double choices = static_cast<double>(kChoices) * tokens;
  RoutingFacts facts{.layer = number(mixture, {"layer"}),
                     .busiest = busiest * experts / choices,
                     .idlest = idlest * experts / choices,
                     .dropped = (number(mixture, {"dropped_first"}) + number(mixture, {"dropped_second"})) / choices,
                     .without_expert = number(mixture, {"dropped_both"}) / tokens,
                     .entropy = number(mixture, {"entropy"}) / std::log(experts),
                     .balance_loss = number(mixture, {"balance_loss"})};
  for (const double value : {facts.layer, facts.busiest, facts.idlest, facts.dropped, facts.without_expert,
                             facts.entropy, facts.balance_loss})
    if (!std::isfinite(value)) return std::nullopt;
  return facts;
}

}  // namespace

std::vector<RoutingFacts> routing_facts(const Json& line) {
  std::vector<RoutingFacts> layers;
  const Json& routing = find(line, {"routing"});
  if (!routing.is_array()) return layers;
  for (const Json& mixture : routing)
    if (const std::optional<RoutingFacts> facts = facts_of(mixture)) layers.push_back(*facts);
  return layers;
}

std::vector<RoutingFacts> final_routing(const std::vector<RoutingPoint>& points) {
  if (points.empty()) return {};
  std::vector<RoutingFacts> means = points.back().layers;
  const size_t count = std::max<size_t>(1, points.size() / 10);
  for (RoutingFacts& mean : means) {
    RoutingFacts sum{.layer = mean.layer};
    double found = 0;
    for (size_t i = points.size() - count; i < points.size(); ++i)
      for (const RoutingFacts& facts : points[i].layers) {
        if (facts.layer != mean.layer) continue;
        sum.busiest += facts.busiest;
        sum.idlest += facts.idlest;
        sum.dropped += facts.dropped;
        sum.without_expert += facts.without_expert;
        sum.entropy += facts.entropy;
        sum.balance_loss += facts.balance_loss;
        ++found;
      }
    mean = {sum.layer,
            sum.busiest / found,
            sum.idlest / found,
            sum.dropped / found,
            sum.without_expert / found,
            sum.entropy / found,
            sum.balance_loss / found};
  }
  return means;
}

}  // namespace cbtm::report
