#include "cbtm/route/router.h"

#include <vector>

namespace cbtm {

void RoutingContext::append_token(int32_t, std::string_view text) { append(text); }

void RoutingContext::weights(const Mixture& mixture, std::span<const uint8_t> present, std::span<double> out) const {
  std::vector<double> distances(out.size());
  squared_distances(distances);
  routing_weights(distances, mixture, present, out);
}

}  // namespace cbtm
