#include "cbtm/base/file_lock.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>

#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("a lock keeps others out while it lives") {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "deep/lock";
  std::optional<FileLock> first(path);
  CHECK(first->held());
  CHECK_FALSE(FileLock(path, FileLock::Wait::no).held());
  first.reset();
  CHECK(FileLock(path, FileLock::Wait::no).held());
}

TEST_CASE("a killed process lets go") {
  const TemporaryDirectory directory;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const FileLock lock(directory / "lock");
    ::raise(SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  CHECK(FileLock(directory / "lock", FileLock::Wait::no).held());
}

TEST_CASE("a lock that cannot be made is named") {
  CHECK_THROWS_WITH_AS(FileLock("/proc/nowhere/lock"), doctest::Contains("/proc/nowhere"), Error);
}

}  // namespace
}  // namespace cbtm
