#include "cbtm/device/profile_range.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include "cbtm/base/error.h"

namespace cbtm {

ProfileRange parse_profile_range(std::string_view text) {
  ProfileRange range;
  const size_t first = text.find(':');
  range.phase = text.substr(0, first);
  const auto number = [&](std::string_view digits) {
    int64_t value = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (status != std::errc() || end != digits.data() + digits.size() || value < 1)
      fail_usage("--profile {}: use PHASE, PHASE:FIRST or PHASE:FIRST:COUNT with numbers from 1, for example step:10:3",
                 text);
    return value;
  };
  if (first != std::string_view::npos) {
    const size_t second = text.find(':', first + 1);
    range.first = number(text.substr(first + 1, second == std::string_view::npos ? second : second - first - 1));
    if (second != std::string_view::npos) range.count = number(text.substr(second + 1));
  }
  constexpr std::string_view kPhases[] = {"step", "layer", "checkpoint", "validation", "prompt", "token"};
  if (std::find(std::begin(kPhases), std::end(kPhases), range.phase) == std::end(kPhases))
    fail_usage("--profile {}: there are the phases {}", text, fmt::join(kPhases, ", "));
  return range;
}

}  // namespace cbtm
