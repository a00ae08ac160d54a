// libFuzzer's entry points for the one target that is linked into this program.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>

#include "cbtm/base/error.h"
#include "tests/fuzz/target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t size_max);

namespace {

const cbtm::fuzz::Target& target() {
  CBTM_ASSERT(cbtm::fuzz::targets().size() == 1, "a libFuzzer program has one target");
  return cbtm::fuzz::targets().front();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  cbtm::fuzz::prepare_process();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cbtm::fuzz::run(target(), {reinterpret_cast<const char*>(data), size});
  return 0;
}

/// libFuzzer's own mutation; seven times of eight the checksums are mended afterwards.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t size_max, unsigned int seed) {
  const size_t mutated = LLVMFuzzerMutate(data, size, size_max);
  if (target().repair == nullptr || std::minstd_rand(seed)() % 8 == 0) return mutated;
  const std::string repaired = target().repair({reinterpret_cast<const char*>(data), mutated});
  if (repaired.size() > size_max) return mutated;
  std::memcpy(data, repaired.data(), repaired.size());
  return repaired.size();
}
