// libFuzzer's entry points for the one target that is linked into this program.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>

#include "cbtm/base/error.h"
#include "tests/fuzz/mutate_json.h"
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

/// Changes bytes as libFuzzer does, or one JSON value; seven times of eight the checksums are mended afterwards.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t size_max, unsigned int seed) {
  std::minstd_rand random(seed);
  const std::string_view before(reinterpret_cast<const char*>(data), size);
  std::string input;
  if (random() % 2 == 0) input = cbtm::fuzz::mutate_json_parts(before, seed);
  if (input.empty() || input.size() > size_max || input == before) {
    const size_t mutated = LLVMFuzzerMutate(data, size, size_max);
    input.assign(reinterpret_cast<const char*>(data), mutated);
  }
  if (target().repair != nullptr && random() % 8 != 0) {
    const std::string repaired = target().repair(input);
    if (repaired.size() <= size_max) input = repaired;
  }
  std::memcpy(data, input.data(), input.size());
  return input.size();
}
