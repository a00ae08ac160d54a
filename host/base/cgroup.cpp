#include "cbtm/base/cgroup.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {
namespace {

/// The pieces of `text` between separators; no empty ones.
std::vector<std::string> pieces_of(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0) pieces.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return pieces;
}

/// A field of mountinfo, where blanks and the like are written as \ooo.
std::string unescaped(std::string_view field) {
  std::string text;
  for (size_t i = 0; i < field.size(); ++i) {
    const auto digit = [&](size_t at) { return at < field.size() && field[at] >= '0' && field[at] <= '7'; };
    if (field[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      text += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

std::optional<int64_t> number_of(std::string_view text) {
  int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The first words of a file; empty ones where it has less, or cannot be read.
std::pair<std::string, std::string> first_words(const std::filesystem::path& path) {
  std::pair<std::string, std::string> words;
  std::ifstream file(path);
  file >> words.first >> words.second;
  return words;
}
/// A file that holds one number; nothing for "max", or where it cannot be read.
std::optional<int64_t> number_in(const std::filesystem::path& path) { return number_of(first_words(path).first); }

/// "name value" lines of a memory.stat.
std::optional<int64_t> statistic(const std::filesystem::path& path, std::string_view name) {
  std::ifstream file(path);
  std::string key, value;
  while (file >> key >> value)
    if (key == name) return number_of(value);
  return std::nullopt;
}

/// A mounted hierarchy of groups.
struct Hierarchy {
  std::filesystem::path mount_point;
  std::vector<std::string> root;         ///< path of the group that is mounted there
  std::vector<std::string> controllers;  ///< of version 1; of version 2 none
  bool unified = false;                  ///< version 2
};

std::vector<Hierarchy> mounted_hierarchies(const std::filesystem::path& root) {
  std::vector<Hierarchy> result;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> before = pieces_of(std::string_view(line).substr(0, dash), ' ');
    const std::vector<std::string> after = pieces_of(std::string_view(line).substr(dash + 3), ' ');
    if (before.size() < 5 || after.empty() || (after[0] != "cgroup" && after[0] != "cgroup2")) continue;
    Hierarchy hierarchy{.mount_point = root / std::filesystem::path(unescaped(before[4])).relative_path(),
                        .root = pieces_of(unescaped(before[3]), '/'),
                        .controllers = {},
                        .unified = after[0] == "cgroup2"};
    if (!hierarchy.unified && after.size() > 2) hierarchy.controllers = pieces_of(after[2], ',');
    result.push_back(std::move(hierarchy));
  }
  return result;
}

/// A line of proc/self/cgroup: the process's group in one hierarchy.
struct Membership {
  std::vector<std::string> controllers;  ///< of version 1; of version 2 none
  std::vector<std::string> path;
};

std::vector<Membership> memberships(const std::filesystem::path& root) {
  std::vector<Membership> result;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    result.push_back({pieces_of(std::string_view(line).substr(first + 1, second - first - 1), ','),
                      pieces_of(std::string_view(line).substr(second + 1), '/')});
  }
  return result;
}

bool holds(const std::vector<std::string>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

/// Directories of the process's group and those around it, the innermost first. Paths of groups are relative to the
/// namespace of the process, as the mounted root is. Where its own group is not below the mounted one, all that can be
/// seen is the mounted one.
std::vector<std::filesystem::path> groups_around(const Hierarchy& hierarchy, const std::vector<std::string>& path) {
  std::vector<std::filesystem::path> directories = {hierarchy.mount_point};
  const auto& root = hierarchy.root;
  if (path.size() < root.size() || !std::equal(root.begin(), root.end(), path.begin())) return directories;
  for (size_t i = root.size(); i < path.size(); ++i) {
    if (path[i] == "..") break;
    directories.push_back(directories.back() / path[i]);
  }
  std::reverse(directories.begin(), directories.end());
  return directories;
}

void limit_memory(CgroupLimits& limits, std::optional<int64_t> limit, std::optional<int64_t> usage,
                  int64_t given_back) {
  if (!limit || !usage) return;
  const int64_t kept = std::max<int64_t>(0, *usage - given_back);
  limits.memory_bytes = std::min(limits.memory_bytes, std::max<int64_t>(0, *limit - kept));
}
void limit_cores(CgroupLimits& limits, std::optional<int64_t> quota, std::optional<int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return;
  limits.cores = std::min(limits.cores, static_cast<double>(*quota) / static_cast<double>(*period));
}

void apply_unified(const std::filesystem::path& group, CgroupLimits& limits) {
  const std::filesystem::path statistics = group / "memory.stat";
  const std::optional<int64_t> usage = number_in(group / "memory.current");
  const int64_t given_back = statistic(statistics, "inactive_file").value_or(0) +
                             statistic(statistics, "active_file").value_or(0) +
                             statistic(statistics, "slab_reclaimable").value_or(0);
  // Above memory.high nothing is killed, but everything stands still.
  for (const char* name : {"memory.max", "memory.high"})
    limit_memory(limits, number_in(group / name), usage, given_back);
  const auto [quota, period] = first_words(group / "cpu.max");
  limit_cores(limits, number_of(quota), number_of(period));
}

void apply_memory_v1(const std::filesystem::path& group, CgroupLimits& limits) {
  const std::filesystem::path statistics = group / "memory.stat";
  const std::optional<int64_t> usage = number_in(group / "memory.usage_in_bytes");
  const int64_t given_back =
      statistic(statistics, "total_inactive_file").value_or(0) + statistic(statistics, "total_active_file").value_or(0);
  limit_memory(limits, number_in(group / "memory.limit_in_bytes"), usage, given_back);
  // Groups around this one that a container does not see.
  limit_memory(limits, statistic(statistics, "hierarchical_memory_limit"), usage, given_back);
}

void apply_cpu_v1(const std::filesystem::path& group, CgroupLimits& limits) {
  limit_cores(limits, number_in(group / "cpu.cfs_quota_us"), number_in(group / "cpu.cfs_period_us"));
}

}  // namespace

CgroupLimits cgroup_limits(const std::filesystem::path& root) {
  CgroupLimits limits;
  const std::vector<Membership> groups = memberships(root);
  for (const Hierarchy& hierarchy : mounted_hierarchies(root))
    for (const Membership& membership : groups) {
      if (hierarchy.unified) {
        if (!membership.controllers.empty()) continue;
        for (const auto& group : groups_around(hierarchy, membership.path)) apply_unified(group, limits);
        continue;
      }
      const auto both = [&](std::string_view controller) {
        return holds(hierarchy.controllers, controller) && holds(membership.controllers, controller);
      };
      for (const auto& group : groups_around(hierarchy, membership.path)) {
        if (both("memory")) apply_memory_v1(group, limits);
        if (both("cpu")) apply_cpu_v1(group, limits);
      }
    }
  return limits;
}

}  // namespace cbtm
