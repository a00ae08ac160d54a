// The bits of a small run on the GPU stay what they were, in every type of training. They depend on the GPU and on
// cuBLASLt, so this is compared under the simulator alone, where both are the same everywhere.

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/commands/recorded_bits.h"

namespace cbtm {
namespace {

TEST_CASE("a small run's bits under the simulator are the recorded ones") {
  const auto environment = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (environment("CBTM_TESTS_RUN_ON") != "simulator" || environment("CUDASIM_ARCH") == "75") {
    std::fputs("SKIPPED: bits are recorded for the simulator, and for GPUs that have bfloat16\n", stderr);
    std::exit(77);
  }
  setenv("CBTM_SIMD", "avx2", 1);
  for (const char* precision : {"float32", "bf16", "fp16"}) {
    CAPTURE(precision);
    check_recorded_bits(std::string("cuda-") + precision,
                        bits_of_a_run({"--device", "cuda", "--threads", "1"}, {"--precision", precision}, {"bf16"}));
  }
}

}  // namespace
}  // namespace cbtm
