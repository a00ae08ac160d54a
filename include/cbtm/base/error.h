#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace cbtm {

/// Process exit codes, the same for every command.
enum ExitCode : int {
  kExitSuccess = 0,
  kExitFailure = 1,       ///< Bad input or a failed operation; one line on stderr says what, where, what to do.
  kExitUsage = 2,         ///< The command line itself is wrong.
  kExitInterrupted = 75,  ///< A signal asked to stop; the state was saved and the same command goes on from it.
};

/// The only exception of this program. It carries a message for a person: what is wrong, where, and what to do. It is
/// thrown where the fact is known, and printed once in main. Programming errors are CBTM_ASSERT, never Error.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, int exit_code = kExitFailure)
      : std::runtime_error(message), exit_code_(exit_code) {}

  /// The exit code of the process if nobody handles this.
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// Throws Error with a formatted message (fmt syntax).
template <typename... Arguments>
[[noreturn]] void fail(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw Error(fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// Throws Error with the exit code kExitUsage, for a wrong command line.
template <typename... Arguments>
[[noreturn]] void fail_usage(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw Error(fmt::format(format, std::forward<Arguments>(arguments)...), kExitUsage);
}

/// "message: No such file or directory" for the current errno.
std::string errno_text();

[[noreturn]] void assertion_failed(const char* condition, const char* reason, const char* file, int line);

}  // namespace cbtm

/// Checks what must hold if the program is right, with the reason. Always compiled in. Input is checked, not asserted.
#define CBTM_ASSERT(condition, reason) \
  (static_cast<bool>(condition) ? void(0) : ::cbtm::assertion_failed(#condition, reason, __FILE__, __LINE__))
