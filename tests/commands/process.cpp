#include "tests/commands/process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace cbtm {
namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

Process::Process(const std::vector<std::string>& command, const std::filesystem::path& directory,
                 const std::string& input) {
  // Files instead of pipes: no deadlock however much either side writes.
  std::ofstream(streams_ / "in", std::ios::binary) << input;
  child_ = ::fork();
  if (child_ < 0) throw std::runtime_error("fork failed");
  if (child_ != 0) return;
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const int in = ::open((streams_ / "in").c_str(), O_RDONLY);
  const int out = ::open((streams_ / "out").c_str(), O_WRONLY | O_CREAT, 0600);
  const int err = ::open((streams_ / "err").c_str(), O_WRONLY | O_CREAT, 0600);
  if (::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0 || ::chdir(directory.c_str()) != 0) ::_exit(127);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

Process::~Process() {
  if (ended_) return;
  send(SIGKILL);
  collect(0);
}

void Process::send(int signal) const {
  if (!ended_) ::kill(child_, signal);
}

void Process::collect(int flags) {
  int status = 0;
  rusage usage{};
  if (ended_ || ::wait4(child_, &status, flags, &usage) != child_) return;
  ended_ = true;
  outcome_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome_.output = contents(streams_ / "out");
  outcome_.errors = contents(streams_ / "err");
  outcome_.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  outcome_.peak_bytes = usage.ru_maxrss * 1024;
}

bool Process::ended() {
  collect(WNOHANG);
  return ended_;
}

std::string Process::output() const { return contents(streams_ / "out"); }
std::string Process::errors() const { return contents(streams_ / "err"); }

Outcome Process::wait() {
  collect(0);
  return outcome_;
}

Outcome run_program(const std::vector<std::string>& command, const std::filesystem::path& directory,
                    const std::string& input) {
  return Process(command, directory, input).wait();
}

std::vector<std::string> cbtm_command(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {CBTM_BINARY};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

Outcome run_cbtm(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
                 const std::string& input) {
  return run_program(cbtm_command(arguments), directory, input);
}

std::vector<std::string> with_small_files(int64_t kibibytes, const std::vector<std::string>& command) {
  std::vector<std::string> limited = {"bash", "-c", "ulimit -f " + std::to_string(kibibytes) + "; exec \"$0\" \"$@\""};
  limited.insert(limited.end(), command.begin(), command.end());
  return limited;
}

}  // namespace cbtm
