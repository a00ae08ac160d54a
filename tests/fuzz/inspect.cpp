// "cbtm inspect" on a directory of any kind, with --json: what is read is printed and written as JSON too.

#include "commands/commands.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(input, {"run.json",
                                 "clusters.json",
                                 "router.json",
                                 "router.safetensors",
                                 "config.json",
                                 "expert.json",
                                 "generation_config.json",
                                 "model.safetensors",
                                 "pytorch_model.bin",
                                 "vocab.json",
                                 "merges.txt",
                                 "special_tokens_map.json",
                                 "tokenizer.json",
                                 "added_tokens.json",
                                 "tokenizer_config.json",
                                 "train.idx",
                                 "train.bin",
                                 "valid.idx",
                                 "valid.bin",
                                 "000/config.json",
                                 "000/expert.json",
                                 "000/model.safetensors"});
  const InputFiles output;
  std::string arguments[] = {"inspect", files.path().string(), "--json", (output / "out.json").string()};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), arguments[3].data(), nullptr};
  run_inspect(4, argv);
}

const Registration kRegistration{{"inspect", read, repair_parts}};

}  // namespace
}  // namespace cbtm::fuzz
