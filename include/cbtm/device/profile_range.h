#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm {

/// Phases for a profiler to capture: occurrences first .. first + count - 1 of those named `phase` (Device::Phase).
struct ProfileRange {
  std::string phase;
  int64_t first = 1;
  int64_t count = 1;
};
/// "step", "step:10" or "step:10:3" (phase, first occurrence, how many). Throws a usage Error.
ProfileRange parse_profile_range(std::string_view text);

}  // namespace cbtm
