#include "cbtm/base/memory.h"

#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// A "Name:   123 kB" line of a /proc file in bytes, or -1.
int64_t proc_field_bytes(const char* path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with(name)) return std::strtoll(line.c_str() + name.size(), nullptr, 10) * 1024;
  return -1;
}

/// A file that holds one number, or -1 ("max", missing).
int64_t number_in_file(const char* path) {
  int64_t value = 0;
  std::ifstream file(path);
  return file >> value ? value : -1;
}

}  // namespace

int64_t available_memory_bytes() {
  int64_t available = proc_field_bytes("/proc/meminfo", "MemAvailable:");
  if (available < 0) available = std::numeric_limits<int64_t>::max();
  struct CgroupFiles {
    const char* limit;
    const char* usage;
  };
  for (const CgroupFiles& files :
       {CgroupFiles{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        CgroupFiles{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}}) {
    const int64_t limit = number_in_file(files.limit);
    const int64_t usage = number_in_file(files.usage);
    if (limit > 0 && usage >= 0) available = std::min(available, std::max<int64_t>(0, limit - usage));
  }
  return available;
}

int64_t peak_resident_bytes() { return std::max<int64_t>(0, proc_field_bytes("/proc/self/status", "VmHWM:")); }

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
  if (status != std::errc() || factor == 0 || !(value > 0) || value * factor > 9e18)
    fail_usage("{}: '{}' is not a size; write for example 512M or 2G", flag, text);
  return static_cast<int64_t>(value * factor);
}

}  // namespace cbtm
