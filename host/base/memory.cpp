#include "cbtm/base/memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>

#include "cbtm/base/cgroup.h"
#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr const char* kOwnStatus = "/proc/self/status";

/// A "Name:   123 kB" line of a /proc file in bytes, or -1.
int64_t proc_field_bytes(const char* path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with(name)) return std::strtoll(line.c_str() + name.size(), nullptr, 10) * 1024;
  return -1;
}

/// What a limit of the process (ulimit) leaves beside what it has taken, which is a field of its status.
int64_t left_of(const rlimit& limit, const char* taken_field) {
  if (limit.rlim_cur > static_cast<rlim_t>(std::numeric_limits<int64_t>::max()))  // RLIM_INFINITY
    return std::numeric_limits<int64_t>::max();
  const int64_t taken = std::max<int64_t>(0, proc_field_bytes(kOwnStatus, taken_field));
  return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - taken);
}

}  // namespace

int64_t available_memory_bytes() {
  int64_t available = proc_field_bytes("/proc/meminfo", "MemAvailable:");
  if (available < 0) available = std::numeric_limits<int64_t>::max();
  available = std::min(available, cgroup_limits().memory_bytes);
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0) available = std::min(available, left_of(limit, "VmSize:"));
  if (getrlimit(RLIMIT_DATA, &limit) == 0) available = std::min(available, left_of(limit, "VmData:"));
  return available;
}

int64_t own_memory_bytes() {
  return std::max<int64_t>(0, proc_field_bytes(kOwnStatus, "RssAnon:")) +
         std::max<int64_t>(0, proc_field_bytes(kOwnStatus, "VmExe:"));
}

int64_t peak_resident_bytes() { return std::max<int64_t>(0, proc_field_bytes(kOwnStatus, "VmHWM:")); }

std::string format_bytes(int64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.{}f} {}", value, value < 10 ? 1 : 0, kUnits[unit]);
}

int64_t parse_bytes(std::string_view text, std::string_view flag) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double factor = 0;
  if (unit.empty() || unit == "B") factor = 1;
  if (unit == "K" || unit == "KiB") factor = 0x1p10;
  if (unit == "M" || unit == "MiB") factor = 0x1p20;
  if (unit == "G" || unit == "GiB") factor = 0x1p30;
  if (unit == "T" || unit == "TiB") factor = 0x1p40;
  if (status != std::errc() || factor == 0 || !(value * factor >= 1) || value * factor > 9e18)
    fail_usage("{}: '{}' is not a size; write for example 512M or 2G", flag, text);
  return static_cast<int64_t>(value * factor);
}

}  // namespace cbtm
