#include "cbtm/route/mixture.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/error.h"

namespace cbtm {

void routing_weights(std::span<const double> squared_distances, const Mixture& mixture,
                     std::span<const uint8_t> present, std::span<double> weights) {
  CBTM_ASSERT(mixture.temperature > 0, "the command line checks the temperature");
  std::vector<size_t> order;
  for (size_t j = 0; j < squared_distances.size(); ++j)
    if (present.empty() || present[j] != 0) order.push_back(j);
  CBTM_ASSERT(!order.empty(), "some expert is present");
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return squared_distances[a] < squared_distances[b]; });
  order.resize(std::min(order.size(), static_cast<size_t>(std::max<int64_t>(1, mixture.top_k))));
  const auto power = [&](size_t j) { return std::pow(squared_distances[j], mixture.distance_power / 2); };
  std::fill(weights.begin(), weights.end(), 0.0);
  const double nearest = power(order.front());
  double sum = 0;
  for (const size_t j : order) {
    // The difference first: at a small temperature the quotients overflow, and their difference is not a number. An
    // infinite quotient of a difference is weight 0, as it should be.
    const double farther = power(j) - nearest;
    sum += weights[j] = farther > 0 ? std::exp(-farther / mixture.temperature) : 1;
  }
  for (const size_t j : order) weights[j] /= sum;
}

}  // namespace cbtm
