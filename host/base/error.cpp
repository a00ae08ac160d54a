#include "cbtm/base/error.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cbtm {

std::string errno_text() { return std::strerror(errno); }

void assertion_failed(const char* condition, const char* reason, const char* file, int line) {
  std::fprintf(stderr, "cbtm: internal error at %s:%d: %s does not hold (%s); please report this\n", file, line,
               condition, reason);
  std::abort();
}

}  // namespace cbtm
