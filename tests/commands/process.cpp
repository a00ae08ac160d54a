#include "tests/commands/process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <stdexcept>

#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Outcome run_program(const std::vector<std::string>& command, const std::filesystem::path& directory,
                    const std::string& input) {
  // Files instead of pipes: no deadlock however much either side writes.
  const TemporaryDirectory streams;
  std::ofstream(streams / "in", std::ios::binary) << input;
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const int in = ::open((streams / "in").c_str(), O_RDONLY);
    const int out = ::open((streams / "out").c_str(), O_WRONLY | O_CREAT, 0600);
    const int err = ::open((streams / "err").c_str(), O_WRONLY | O_CREAT, 0600);
    if (::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0 || ::chdir(directory.c_str()) != 0) ::_exit(127);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  Outcome outcome;
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.output = contents(streams / "out");
  outcome.errors = contents(streams / "err");
  return outcome;
}

Outcome run_cbtm(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
                 const std::string& input) {
  std::vector<std::string> command = {CBTM_BINARY};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_program(command, directory, input);
}

}  // namespace cbtm
