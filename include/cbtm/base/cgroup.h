#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>

namespace cbtm {

/// What the control groups of this process grant it: the tightest of its own group and of all groups around it that can
/// be seen. Unlimited where there are no control groups.
struct CgroupLimits {
  /// Bytes that could still be taken: limit minus usage, where file cache that the kernel gives back counts as free.
  int64_t memory_bytes = std::numeric_limits<int64_t>::max();
  double cores = std::numeric_limits<double>::infinity();
};

/// Reads proc/self/cgroup and proc/self/mountinfo below `root`, and the groups where they are mounted. Version 1,
/// version 2 and both at once; containers that see a part of the tree. What cannot be read sets no limit.
/// `root`: of the file system; tests give a directory that looks like one.
CgroupLimits cgroup_limits(const std::filesystem::path& root = "/");

}  // namespace cbtm
