// The pickle interpreter without the archive around it; the input is the stream.

#include "tensor_file/pickle.h"

#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const bool legacy = input.size() % 2 == 1;
  read_pickle(input, "input", legacy);
}

const Registration kRegistration{{"pickle", read}};

}  // namespace
}  // namespace cbtm::fuzz
