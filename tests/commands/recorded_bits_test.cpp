// The bits of a small run stay what they were: a change of the code that is not meant to change a result changes none.
// Where one must change, CBTM_RECORD_BITS=1 writes the new ones, in a commit that says why.

#include "tests/commands/recorded_bits.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/commands/process.h"

namespace cbtm {
namespace {

TEST_SUITE_BEGIN("end_to_end");

#if defined(__x86_64__)
TEST_CASE("a small run's bits on the CPU are the recorded ones, with one thread and with two") {
  for (const char* level : {"sse4", "avx2"}) {
    CAPTURE(level);
    setenv("CBTM_SIMD", level, 1);
    for (const char* threads : {"1", "2"}) {
      CAPTURE(threads);
      check_recorded_bits(std::string("cpu-") + level,
                          bits_of_a_run({"--threads", threads}, {}, {"f32", "bf16", "int8", "int4"}));
    }
    unsetenv("CBTM_SIMD");
  }
}
#endif

TEST_SUITE_END();

}  // namespace
}  // namespace cbtm
