// Feeds the kept inputs to their targets: fuzz_replay CORPUS [TARGET...]. The inputs of a target lie in CORPUS/TARGET;
// "fuzz_replay TARGET FILE..." takes single files and says what the reader says of each. Built by any compiler, with or
// without sanitizers; without them, the limits of time and memory are kept here.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

#if defined(__SANITIZE_ADDRESS__)
#define CBTM_FUZZ_SANITIZED 1
extern "C" void __sanitizer_set_death_callback(void (*callback)());
extern "C" const char* __asan_default_options() { return "max_allocation_size_mb=2048:hard_rss_limit_mb=2048"; }
#else
#define CBTM_FUZZ_SANITIZED 0
#endif

namespace cbtm::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kSecondsMax = 5;
constexpr rlim_t kMemoryBytesMax = rlim_t{2} << 30;

/// What is being read, for the handlers below.
char current_input[4096] = "";

void name_input(const char* what) {
  // Only what a signal handler may call.
  for (const char* text : {"fuzz: ", static_cast<const char*>(current_input), ": ", what, "\n"})
    if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

void on_death() { name_input("the reader died on this input"); }

extern "C" void on_signal(int signal) {
  name_input(signal == SIGALRM ? "takes longer than 5 seconds" : "the reader died on this input");
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void watch() {
#if CBTM_FUZZ_SANITIZED
  __sanitizer_set_death_callback(on_death);
#else
  static_cast<void>(on_death);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE}) std::signal(signal, on_signal);
  const rlimit limit{kMemoryBytesMax, kMemoryBytesMax};
  ::setrlimit(RLIMIT_AS, &limit);
#endif
  for (const int signal : {SIGABRT, SIGALRM}) std::signal(signal, on_signal);
}

std::string contents_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + ": cannot be opened");
  return {std::istreambuf_iterator<char>(file), {}};
}

/// False if the reader throws what it must not throw.
bool feed(const Target& target, const fs::path& path, bool verbose) {
  const std::string input = contents_of(path);
  path.string().copy(current_input, sizeof current_input - 1);
  current_input[std::min(path.string().size(), sizeof current_input - 1)] = '\0';
  ::alarm(kSecondsMax);
  bool good = true;
  try {
    const std::string message = run(target, input);
    if (verbose) std::fprintf(stderr, "%s: %s\n", path.c_str(), message.empty() ? "read" : message.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz: %s: %s\n", path.c_str(), error.what());
    good = false;
  }
  ::alarm(0);
  return good;
}

std::vector<fs::path> inputs_in(const fs::path& directory) {
  std::vector<fs::path> paths;
  if (fs::is_directory(directory))
    for (const auto& entry : fs::directory_iterator(directory)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

int replay(const std::vector<std::string>& arguments) {
  const auto named = [](const std::string& name) {
    return std::find_if(targets().begin(), targets().end(), [&](const Target& target) { return target.name == name; });
  };
  if (arguments.empty())
    throw std::runtime_error("usage: fuzz_replay CORPUS [TARGET...] or fuzz_replay TARGET FILE...");
  std::vector<std::pair<const Target*, fs::path>> work;
  const auto target = named(arguments[0]);
  const bool single_files = target != targets().end();
  if (single_files) {
    for (size_t i = 1; i < arguments.size(); ++i) work.emplace_back(&*target, arguments[i]);
  } else {
    for (const Target& each : targets()) {
      if (arguments.size() > 1 && std::count(arguments.begin() + 1, arguments.end(), each.name) == 0) continue;
      const std::vector<fs::path> inputs = inputs_in(fs::path(arguments[0]) / each.name);
      if (inputs.empty()) throw std::runtime_error(arguments[0] + ": holds no inputs for " + each.name);
      for (const fs::path& path : inputs) work.emplace_back(&each, path);
    }
  }
  size_t bad = 0;
  for (const auto& [reader, path] : work) bad += feed(*reader, path, single_files) ? 0 : 1;
  std::fprintf(stderr, "fuzz: %zu inputs read, %zu of them badly\n", work.size(), bad);
  return bad == 0 && !work.empty() ? 0 : 1;
}

}  // namespace
}  // namespace cbtm::fuzz

int main(int argc, char** argv) {
  cbtm::fuzz::prepare_process();
  cbtm::fuzz::watch();
  // Readers that print what they read.
  if (std::freopen("/dev/null", "w", stdout) == nullptr) return 1;
  try {
    return cbtm::fuzz::replay({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz: %s\n", error.what());
    return 1;
  }
}
