#pragma once

#include <cstdint>
#include <string>

namespace cbtm {

/// How much of the text the weights of a token are computed from. The token at position n is predicted from n tokens.
enum class RoutingSchedule : uint8_t {
  token,     ///< from all n
  lagged,    ///< from n - 1, as in the published program
  every,     ///< from n - n mod interval
  fraction,  ///< from min(n, floor(fraction * length))
  prompt     ///< generation only: from the prompt, once
};
struct RoutingMode {
  RoutingSchedule schedule = RoutingSchedule::token;
  int64_t interval = 1;
  double fraction = 1;
};
/// Reads "token", "lagged", "every:16", "fraction:0.5" or "prompt". Throws a usage Error.
RoutingMode parse_routing_mode(const std::string& text);
/// The number of tokens that the weights for position n are computed from. `length` is the number of tokens of the
/// document, or of the prompt when generating.
int64_t routed_tokens(const RoutingMode& mode, int64_t n, int64_t length);

}  // namespace cbtm
