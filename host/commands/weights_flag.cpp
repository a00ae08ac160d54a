#include "commands/weights_flag.h"

#include "cbtm/base/error.h"

namespace cbtm {

void add_weights_flag(CommandLine& line) {
  line.group("Inference")("weights", "dtype of the matrices in memory: f32, or bf16 for half the memory",
                          text_flag("f32"), "f32|bf16");
}

DType weights_flag(const CommandLine& line) {
  const std::string name = line.text("weights");
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  fail_usage("--weights {}: unknown; use f32 or bf16", name);
}

}  // namespace cbtm
