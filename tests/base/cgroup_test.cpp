// Limits of control groups, read from directories that look like the file systems of machines and containers.

#include "cbtm/base/cgroup.h"

#include <doctest/doctest.h>

#include <fstream>
#include <string>

#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

class Tree {
 public:
  Tree& file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((directory_ / path).parent_path());
    std::ofstream(directory_ / path) << text << "\n";
    return *this;
  }
  Tree& groups(const std::string& text) { return file("proc/self/cgroup", text); }
  Tree& mounts(const std::string& text) { return file("proc/self/mountinfo", text); }
  /// Version 2: limit and usage of memory in MiB.
  Tree& memory(const std::string& group, int64_t limit, int64_t usage) {
    return file(group + "/memory.max", std::to_string(limit * kMiB))
        .file(group + "/memory.current", std::to_string(usage * kMiB));
  }
  Tree& memory_v1(const std::string& group, int64_t limit, int64_t usage) {
    return file(group + "/memory.limit_in_bytes", std::to_string(limit * kMiB))
        .file(group + "/memory.usage_in_bytes", std::to_string(usage * kMiB));
  }
  CgroupLimits limits() const { return cgroup_limits(directory_.path()); }

 private:
  TemporaryDirectory directory_;
};

constexpr const char* kUnified =
    "22 1 0:20 / / rw - ext4 /dev/sda rw\n30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";

TEST_CASE("no control groups, damaged files and groups without limits set no limit") {
  const CgroupLimits none;
  CHECK(Tree().limits().memory_bytes == none.memory_bytes);
  CHECK(Tree().groups("0::/a").limits().cores == none.cores);
  Tree damaged;
  damaged.groups("garbage\n0:\n::\n0::/a").mounts("1 2 3\n - cgroup2\n30 22 0:26 / /sys/fs/cgroup rw - cgroup2 c rw");
  damaged.file("sys/fs/cgroup/a/memory.max", "12x").file("sys/fs/cgroup/a/memory.current", "5");
  damaged.file("sys/fs/cgroup/a/cpu.max", "100000");
  CHECK(damaged.limits().memory_bytes == none.memory_bytes);
  CHECK(damaged.limits().cores == none.cores);
  Tree unlimited;
  unlimited.groups("0::/a").mounts(kUnified).file("sys/fs/cgroup/a/memory.max", "max");
  unlimited.file("sys/fs/cgroup/a/memory.current", "1000").file("sys/fs/cgroup/a/cpu.max", "max 100000");
  CHECK(unlimited.limits().memory_bytes == none.memory_bytes);
  CHECK(unlimited.limits().cores == none.cores);
}

TEST_CASE("version 2: the tightest of a group and those around it, nested as a batch system makes them") {
  Tree tree;
  tree.groups("0::/system.slice/job_7/step_0/task_3").mounts(kUnified);
  const std::string base = "sys/fs/cgroup/system.slice";
  tree.memory(base, 8000, 1000).memory(base + "/job_7", 900, 300).file(base + "/job_7/step_0/memory.max", "max");
  tree.memory(base + "/job_7/step_0/task_3", 1000, 100).memory("sys/fs/cgroup/elsewhere", 1, 1);
  CHECK(tree.limits().memory_bytes == 600 * kMiB);
  tree.file(base + "/job_7/cpu.max", "150000 100000").file(base + "/job_7/step_0/task_3/cpu.max", "400000 100000");
  CHECK(tree.limits().cores == 1.5);
  // What is above memory.high is throttled; what the file cache holds is given back.
  tree.file(base + "/job_7/step_0/task_3/memory.high", std::to_string(400 * kMiB));
  CHECK(tree.limits().memory_bytes == 300 * kMiB);
  tree.file(base + "/job_7/step_0/task_3/memory.stat", "anon 1\nfile 2\ninactive_file " + std::to_string(60 * kMiB) +
                                                           "\nactive_file " + std::to_string(20 * kMiB));
  CHECK(tree.limits().memory_bytes == 380 * kMiB);
  tree.memory(base + "/job_7/step_0/task_3", 50, 400);  // over its limit
  CHECK(tree.limits().memory_bytes == 0);
}

TEST_CASE("version 1: controllers in hierarchies of their own, names with blanks and colons") {
  Tree tree;
  tree.groups("5:cpu,cpuacct:/kube pods/pod:1\n4:memory:/kube pods/pod:1/c\n1:name=systemd:/x");
  tree.mounts(
      "33 22 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "34 22 0:30 / /sys/fs/cgroup/me\\040mory rw shared:9 - cgroup cgroup rw,memory\n"
      "35 22 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd");
  tree.memory_v1("sys/fs/cgroup/me mory/kube pods/pod:1", 700, 650).memory_v1("sys/fs/cgroup/me mory", 1'000'000, 0);
  tree.memory_v1("sys/fs/cgroup/me mory/kube pods/pod:1/c", 500, 100);
  CHECK(tree.limits().memory_bytes == 50 * kMiB);
  const std::string pod = "sys/fs/cgroup/cpu,cpuacct/kube pods";
  tree.file(pod + "/pod:1/cpu.cfs_quota_us", "-1").file(pod + "/pod:1/cpu.cfs_period_us", "100000");
  CHECK(tree.limits().cores == CgroupLimits().cores);
  tree.file(pod + "/cpu.cfs_quota_us", "250000").file(pod + "/cpu.cfs_period_us", "100000");
  CHECK(tree.limits().cores == 2.5);
  // A group around it that cannot be seen.
  tree.file("sys/fs/cgroup/me mory/kube pods/pod:1/c/memory.stat",
            "cache 5\nhierarchical_memory_limit " + std::to_string(120 * kMiB) + "\ntotal_inactive_file 0");
  CHECK(tree.limits().memory_bytes == 20 * kMiB);
}

TEST_CASE("both versions at once: the limits of each are seen") {
  Tree tree;
  tree.groups("4:memory:/job\n0::/user.slice/session");
  tree.mounts(
      "31 22 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
      "34 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw");
  tree.memory_v1("sys/fs/cgroup/memory/job", 300, 100);
  tree.file("sys/fs/cgroup/unified/user.slice/cpu.max", "100000 100000");
  CHECK(tree.limits().memory_bytes == 200 * kMiB);
  CHECK(tree.limits().cores == 1);
}

TEST_CASE("containers: the group is the mounted one, below it, or out of sight") {
  struct Container {
    const char *group, *root, *directory;
  };
  for (const Container& c : {
           Container{"/docker/abc", "/docker/abc", ""},  // no namespace of its own: the mount is its group
           Container{"/docker/abc/inner", "/docker/abc", "/inner"},
           Container{"/", "/", ""},  // a namespace of its own
           Container{"/inner", "/", "/inner"},
           Container{"/../../..", "/", ""},  // moved out of its namespace: all that can be seen
           Container{"/../other", "/..", "/other"},
           Container{"/../../job", "/../..", "/job"},
           Container{"/", "/..", ""},
           Container{"/docker/abc", "/somewhere/else", ""},
           Container{"/gone", "/", ""},
       }) {
    CAPTURE(c.group);
    CAPTURE(c.root);
    Tree tree;
    tree.groups(std::string("0::") + c.group);
    tree.mounts(std::string("30 22 0:26 ") + c.root + " /sys/fs/cgroup ro - cgroup2 cgroup rw");
    tree.memory(std::string("sys/fs/cgroup") + c.directory, 640, 140);
    CHECK(tree.limits().memory_bytes == 500 * kMiB);
  }
}

}  // namespace
}  // namespace cbtm
