#pragma once

#include <cstdint>
#include <span>

namespace cbtm {

/// One way to mix the experts (docs/method.md, 'Routing').
struct Mixture {
  int64_t top_k = 2;          ///< experts of non-zero weight, at least 1; as many as are present, or more, means all
  double temperature = 0.1;   ///< T, above 0
  double distance_power = 2;  ///< 2 or 4
};

/// Weights in proportion to exp(-distance_j^power / T) for the top_k nearest clusters (ties: lower index), 0 for the
/// others. They sum to 1. `present` marks the clusters that may be used; empty means all. The exponents are taken
/// relative to the nearest cluster, so the sum does not underflow to 0.
void routing_weights(std::span<const double> squared_distances, const Mixture& mixture,
                     std::span<const uint8_t> present, std::span<double> weights);

}  // namespace cbtm
