#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/model/spec.h"

namespace cbtm {

/// What the router of a mixture of experts did in a step of training, over all micro-batches and devices.
struct LayerRouting {
  int64_t layer = 0;
  int64_t tokens = 0;
  std::vector<int64_t> first_choices, second_choices;  ///< of each expert, before dropping
  std::vector<int64_t> kept;                           ///< of each expert, choices of either kind
  int64_t dropped_first = 0, dropped_second = 0;       ///< choices
  int64_t dropped_both = 0;                            ///< tokens that keep their residual alone
  double entropy = 0;                                  ///< of a token's gates, the mean in nats
  double balance_loss = 0;                             ///< the mean over tokens

  /// Of all choices.
  double dropped_fraction() const {
    return tokens > 0 ? static_cast<double>(dropped_first + dropped_second) / static_cast<double>(2 * tokens) : 0;
  }
  /// The share of the busiest expert in the choices before dropping, times the number of experts: 1 if all are even.
  double largest_load() const;
};

/// One for each mixture of the model, from StepResult::routing_statistics.
std::vector<LayerRouting> layer_routing(const ModelSpec& spec, std::span<const double> statistics);

/// For a line of metrics.jsonl (docs/formats.md): `balance_loss`, summed over the layers, and `routing`, the rest.
void add_routing(const std::vector<LayerRouting>& layers, Json& line);

}  // namespace cbtm
