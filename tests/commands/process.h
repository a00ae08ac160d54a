#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/temporary_directory.h"

namespace cbtm {

/// How a started program ended.
struct Outcome {
  int exit_code = -1;  ///< 128 + signal if a signal ended it
  std::string output;
  std::string errors;
  double cpu_seconds = 0;  ///< user and system
  int64_t peak_bytes = 0;  ///< resident
};

/// A program while it runs (found on PATH). Ended by SIGKILL if it is let go of before wait().
class Process {
 public:
  explicit Process(const std::vector<std::string>& command, const std::filesystem::path& directory = ".",
                   const std::string& input = "");
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal) const;
  bool ended();
  /// What it has written to stdout, and to stderr, so far.
  std::string output() const;
  std::string errors() const;
  Outcome wait();

 private:
  void collect(int flags);

  TemporaryDirectory streams_;
  pid_t child_ = -1;
  bool ended_ = false;
  Outcome outcome_;
};

/// Starts ./cbtm with these arguments in `directory`, feeds it `input`, waits for its end.
Outcome run_cbtm(const std::vector<std::string>& arguments, const std::filesystem::path& directory = ".",
                 const std::string& input = "");

/// The same for any program.
Outcome run_program(const std::vector<std::string>& command, const std::filesystem::path& directory = ".",
                    const std::string& input = "");

/// ./cbtm before these arguments.
std::vector<std::string> cbtm_command(const std::vector<std::string>& arguments);

/// A program that may write files of at most so many KiB: what a full disk looks like to it.
std::vector<std::string> with_small_files(int64_t kibibytes, const std::vector<std::string>& command);

}  // namespace cbtm
