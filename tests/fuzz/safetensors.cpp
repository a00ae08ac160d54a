// safetensors files; the input is the file.

#include "tests/fuzz/input_files.h"
#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files;
  files.write("model.safetensors", input);
  read_tensors(files / "model.safetensors");
}

const Registration kRegistration{{"safetensors", read, repair_safetensors}};

}  // namespace
}  // namespace cbtm::fuzz
