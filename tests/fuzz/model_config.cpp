// config.json and generation_config.json of a checkpoint.

#include "cbtm/model/families.h"
#include "cbtm/model/parameter_layout.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(input, {"config.json", "generation_config.json"});
  const ModelSpec config = read_model_spec(files / "config.json");
  model_config_json(config, "float32").dump();
  ParameterLayout(config).parameter_count();
}

const Registration kRegistration{{"model_config", read}};

}  // namespace
}  // namespace cbtm::fuzz
