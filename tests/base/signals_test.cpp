#include "cbtm/base/signals.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <initializer_list>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// How a process ends that is sent these signals and then asks whether it is to stop: 75 if so.
int end_after(std::initializer_list<int> signals) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_stop_signals();
    for (const int signal : signals) std::raise(signal);
    try {
      stop_if_requested("the test");
    } catch (const Error& error) {
      ::_exit(std::string(error.what()).find("in the test") != std::string::npos ? error.exit_code() : 1);
    }
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST_CASE("signals ask to stop; only a second Ctrl-C is impatient") {
  CHECK(end_after({}) == 0);
  for (const int signal : {SIGTERM, SIGHUP, SIGINT, SIGUSR1}) CHECK(end_after({signal}) == kExitInterrupted);
  CHECK(end_after({SIGTERM, SIGTERM, SIGTERM}) == kExitInterrupted);
  CHECK(end_after({SIGUSR1, SIGTERM, SIGHUP, SIGINT}) == kExitInterrupted);
  CHECK(end_after({SIGINT, SIGINT}) == 128 + SIGINT);
}

}  // namespace
}  // namespace cbtm
