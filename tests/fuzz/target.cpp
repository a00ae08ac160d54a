#include "tests/fuzz/target.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm::fuzz {

std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

Registration::Registration(Target target) { targets().push_back(std::move(target)); }

void prepare_process() {
  ::setenv("OMP_NUM_THREADS", "1", /*overwrite=*/1);
  if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
  set_quiet(true);
}

std::string run(const Target& target, std::string_view input) {
  try {
    target.read(input);
    return "";
  } catch (const Error& error) {  // what a reader should say of damaged input
    return error.what();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: an exception that is no cbtm::Error: %s\n", target.name.c_str(), error.what());
    throw;
  }
}

}  // namespace cbtm::fuzz
