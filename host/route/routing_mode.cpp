#include "cbtm/route/routing_mode.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// True if `text` is `prefix` and a number, nothing else.
template <typename Number>
bool number_after(std::string_view prefix, std::string_view text, Number& number) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

RoutingMode parse_routing_mode(const std::string& text) {
  if (text == "token") return {};
  if (text == "lagged") return {.schedule = RoutingSchedule::lagged};
  if (text == "prompt") return {.schedule = RoutingSchedule::prompt};
  RoutingMode mode;
  if (number_after("every:", text, mode.interval) && mode.interval >= 1) {
    mode.schedule = RoutingSchedule::every;
    return mode;
  }
  if (number_after("fraction:", text, mode.fraction) && mode.fraction > 0 && mode.fraction <= 1) {
    mode.schedule = RoutingSchedule::fraction;
    return mode;
  }
  fail_usage("--routing {}: use token, lagged, every:N, fraction:R (0 < R <= 1) or prompt", text);
}

int64_t routed_tokens(const RoutingMode& mode, int64_t n, int64_t length) {
  switch (mode.schedule) {
    case RoutingSchedule::token: return n;
    case RoutingSchedule::lagged: return std::max<int64_t>(0, n - 1);
    case RoutingSchedule::every: return n - n % mode.interval;
    case RoutingSchedule::fraction:
      return std::min(n, static_cast<int64_t>(std::floor(mode.fraction * static_cast<double>(length))));
    case RoutingSchedule::prompt: return std::min(n, length);
  }
  return n;
}

}  // namespace cbtm
