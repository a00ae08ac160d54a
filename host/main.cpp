#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/error.h"
#include "commands/commands.h"
#include "commands/nearest_word.h"

namespace {

using namespace cbtm;

void print_overview(std::FILE* stream) {
  fmt::print(stream,
             "cbtm {}: Cluster-Branch-Train-Merge. Finds the domains of a corpus, trains one OPT expert for each,\n"
             "and uses them together as a sparse ensemble.\n\n"
             "usage: cbtm COMMAND [flags]      cbtm COMMAND --help teaches each\n\n",
             CBTM_VERSION);
  for (const Command& command : commands()) fmt::print(stream, "  {:<13} {}\n", command.name, command.purpose);
  fmt::print(stream,
             "\nFrom a folder of text to an ensemble:\n"
             "  cbtm run --corpus data/ --k 8 --run run/\n"
             "  cbtm ensemble generate --experts run/experts --prompt \"Once upon a time\"\n");
}

int dispatch(int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  if (name == "--version") {
    fmt::print("cbtm {}\n", CBTM_VERSION);
    return kExitSuccess;
  }
  if (name == "--help" || name == "-h" || name == "help") {
    print_overview(stdout);
    return kExitSuccess;
  }
  if (name.empty()) {
    print_overview(stderr);
    return kExitUsage;
  }
  std::string underscored(name);  // train-expert is train_expert
  std::replace(underscored.begin(), underscored.end(), '-', '_');
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (underscored == command.name) return command.run(argc - 1, argv + 1);
    names.emplace_back(command.name);
  }
  const std::string near = nearest_word(underscored, names);
  fail_usage("unknown command '{}'{}; cbtm --help lists all", name,
             near.empty() ? "" : fmt::format(", did you mean '{}'?", near));
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on the size of files then fails the write, as a full disk does
  try {
    const int exit_code = dispatch(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      fail("standard output cannot be written: {}", errno_text());
    return exit_code;
  } catch (const Error& error) {
    fmt::print(stderr, "cbtm: {}\n", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "cbtm: out of memory; close other programs, or lower --micro-batch, --sequence or --memory\n");
    return kExitFailure;
  } catch (const std::filesystem::filesystem_error& error) {
    fmt::print(stderr, "cbtm: {}: {}\n", error.path1().string(), error.code().message());
    return kExitFailure;
  } catch (const std::exception& error) {
    fmt::print(stderr, "cbtm: {}\n", error.what());
    return kExitFailure;
  }
}
