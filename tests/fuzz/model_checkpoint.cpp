// A checkpoint directory: config.json, tensors in one file or in shards with an index.

#include <vector>

#include "cbtm/model/checkpoint.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(
      input, {"config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
              "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "pytorch_model.bin",
              "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"});
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(files.path());
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  checkpoint.mapped_flat(checkpoint.stored_dtype());
}

const Registration kRegistration{{"model_checkpoint", read, repair_parts}};

}  // namespace
}  // namespace cbtm::fuzz
