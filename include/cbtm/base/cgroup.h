#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>

namespace cbtm {

/// The limits of this process's control groups: the tightest among its own group and all enclosing groups that it can
/// see. Without control groups there is no limit.
struct CgroupLimits {
  /// Bytes that can still be taken: limit minus usage. File cache that the kernel gives back counts as free.
  int64_t memory_bytes = std::numeric_limits<int64_t>::max();
  double cores = std::numeric_limits<double>::infinity();
};

/// Reads proc/self/cgroup and proc/self/mountinfo below `root`, and the groups at their mount points. Understands
/// version 1, version 2, both at once, and containers that see only a part of the tree. A file that cannot be read sets
/// no limit. `root` is the root of the file system; tests give a directory of the same layout.
CgroupLimits cgroup_limits(const std::filesystem::path& root = "/");

}  // namespace cbtm
