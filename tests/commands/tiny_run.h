#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "tests/commands/process.h"
#include "tests/temporary_directory.h"

namespace cbtm {

inline constexpr int kTinyClusters = 3;

/// JSON lines of documents on three subjects that share no words; `per_topic` of each, always the same ones.
std::string tiny_corpus(int per_topic = 90);

/// A directory with corpus.jsonl, model.json (the shape of a very small model) and run/, clustered into three with a
/// seed of a few steps, by the binary itself. Made once a process; take a copy to work in.
const std::filesystem::path& tiny_run();

/// A copy of tiny_run() that is removed at the end of the test.
class TinyRunCopy {
 public:
  TinyRunCopy();
  const std::filesystem::path& path() const { return directory_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return directory_ / name; }

 private:
  TemporaryDirectory directory_;
};

/// Flags that all trainings of the tests share. One thread: at this size a second one only waits.
std::vector<std::string> tiny_training(const std::vector<std::string>& command,
                                       const std::vector<std::string>& more = {});

/// REQUIREs exit code 0, showing what was said if not.
Outcome succeed(const Outcome& outcome);

/// One line on stderr, starting with "cbtm: ", that holds `expected`; nothing on stdout.
void check_error(const Outcome& outcome, int exit_code, const std::string& expected);

std::string file_contents(const std::filesystem::path& path);

}  // namespace cbtm
