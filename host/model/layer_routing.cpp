#include "cbtm/model/layer_routing.h"

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/device/moe_operands.h"

namespace cbtm {

double LayerRouting::largest_load() const {
  int64_t largest = 0;
  for (size_t e = 0; e < first_choices.size(); ++e) largest = std::max(largest, first_choices[e] + second_choices[e]);
  if (tokens == 0) return 0;
  return static_cast<double>(largest) * static_cast<double>(first_choices.size()) /
         static_cast<double>(kExpertsPerToken * tokens);
}

std::vector<LayerRouting> layer_routing(const ModelSpec& spec, std::span<const double> statistics) {
  const int64_t columns = RoutingStatistics::columns(spec.experts());
  const std::vector<int64_t> mixtures = spec.mixture_layers();
  CBTM_ASSERT(static_cast<int64_t>(statistics.size()) == columns * static_cast<int64_t>(mixtures.size()),
              "a row of statistics for each mixture");
  std::vector<LayerRouting> layers;
  for (size_t i = 0; i < mixtures.size(); ++i) {
    const std::span<const double> row =
        statistics.subspan(i * static_cast<size_t>(columns), static_cast<size_t>(columns));
    const int64_t experts = spec.block(mixtures[i]).feed_forward.experts;
    const auto value = [&](int64_t column) { return row[static_cast<size_t>(column)]; };
    const auto count = [&](int64_t column) { return static_cast<int64_t>(value(column)); };
    LayerRouting routing{.layer = mixtures[i]};
    for (int64_t e = 0; e < experts; ++e) {
      routing.first_choices.push_back(count(RoutingStatistics::first_choices(e)));
      routing.second_choices.push_back(count(RoutingStatistics::second_choices(experts, e)));
      routing.kept.push_back(count(RoutingStatistics::kept(experts, e)));
      routing.tokens += routing.first_choices.back();
    }
    routing.dropped_first = count(RoutingStatistics::dropped_first(experts));
    routing.dropped_second = count(RoutingStatistics::dropped_second(experts));
    routing.dropped_both = count(RoutingStatistics::dropped_both(experts));
    const double tokens = static_cast<double>(std::max<int64_t>(1, routing.tokens));
    routing.entropy = value(RoutingStatistics::entropy(experts)) / tokens;
    routing.balance_loss = value(RoutingStatistics::balance(experts)) / tokens;
    layers.push_back(std::move(routing));
  }
  return layers;
}

void add_routing(const std::vector<LayerRouting>& layers, Json& line) {
  double balance_loss = 0;
  for (const LayerRouting& layer : layers) {
    balance_loss += layer.balance_loss;
    line["routing"].push_back({{"layer", layer.layer},
                               {"first_choices", layer.first_choices},
                               {"second_choices", layer.second_choices},
                               {"kept", layer.kept},
                               {"dropped_first", layer.dropped_first},
                               {"dropped_second", layer.dropped_second},
                               {"dropped_both", layer.dropped_both},
                               {"entropy", layer.entropy},
                               {"balance_loss", layer.balance_loss}});
  }
  line["balance_loss"] = balance_loss;
}

}  // namespace cbtm
