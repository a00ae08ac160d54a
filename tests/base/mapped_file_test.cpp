#include "cbtm/base/mapped_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// Runs `body` in a child process whose stderr goes to `log`; gives its wait status.
int status_of_child(const std::filesystem::path& log, const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(file, STDERR_FILENO);
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

int sum_of(std::string_view text) {
  int sum = 0;
  for (const char c : text) sum += c;
  return sum;
}

TEST_CASE("a file that becomes shorter while it is mapped is named, in any thread") {
  const TemporaryDirectory directory;
  const auto path = directory / "train.bin";
  for (const bool in_thread : {false, true}) {
    std::ofstream(path) << std::string(1 << 20, 'x');
    const int status = status_of_child(directory / "log", [&] {
      const MappedFile first(path);
      { const MappedFile closed(directory / "train.bin"); }
      MappedFile moved(path);
      const MappedFile file = std::move(moved);
      std::filesystem::resize_file(path, 4096);
      volatile int sum = 0;
      if (in_thread)
        std::thread([&] { sum = sum_of(file.text()); }).join();
      else
        sum = sum_of(file.text());
    });
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == kExitFailure);
    const std::string log = text_of(directory / "log");
    CHECK(log.starts_with("cbtm: " + path.string() + ": became shorter while it was read"));
    CHECK(std::count(log.begin(), log.end(), '\n') == 1);
  }
}

TEST_CASE("a SIGBUS that is not a mapped file's keeps its effect") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file") << "x";
  const int status = status_of_child(directory / "log", [&] {
    const MappedFile file(directory / "file");
    ::kill(::getpid(), SIGBUS);
  });
#ifndef __SANITIZE_ADDRESS__  // its own handler ends the process otherwise
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGBUS);
#endif
  CHECK(status != 0);
  CHECK(text_of(directory / "log").find("became shorter") == std::string::npos);
}

TEST_CASE("what is no file is named and not waited for") {
  const TemporaryDirectory directory;
  REQUIRE(::mkfifo((directory / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(MappedFile(directory / "pipe"), doctest::Contains("pipe: is not a regular file but a pipe"),
                       Error);
  CHECK_THROWS_WITH_AS(MappedFile(directory.path()), doctest::Contains("is not a regular file but a directory"), Error);
  CHECK_THROWS_WITH_AS(MappedFile("/dev/zero"), doctest::Contains("/dev/zero: is not a regular file but a device"),
                       Error);
  CHECK_THROWS_WITH_AS(MappedFile(directory / "none"), doctest::Contains("none: cannot be read: "), Error);
  std::ofstream(directory / "empty");
  CHECK(MappedFile(directory / "empty").size() == 0);
}

}  // namespace
}  // namespace cbtm
