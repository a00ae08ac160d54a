// PyTorch files, zip or legacy; the input is the file.

#include "tests/fuzz/input_files.h"
#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files;
  files.write("pytorch_model.bin", input);
  read_tensors(files / "pytorch_model.bin");
}

const Registration kRegistration{{"torch_file", read, repair_zip}};

}  // namespace
}  // namespace cbtm::fuzz
