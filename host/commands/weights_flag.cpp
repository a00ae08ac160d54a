#include "commands/weights_flag.h"

#include "cbtm/base/error.h"

namespace cbtm {

void add_weights_flag(CommandLine& line) {
  line.group("Inference")(
      "weights",
      "of the matrices in memory: f32; bf16 for half of it; int8 for a quarter and int4 for less yet, made "
      "from the checkpoint while it is read, at some loss of quality",
      text_flag("f32"), "f32|bf16|int8|int4");
}

WeightFormat weights_flag(const CommandLine& line) {
  const std::string name = line.text("weights");
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4})
    if (name == weight_format_name(format)) return format;
  fail_usage("--weights {}: unknown; use f32, bf16, int8 or int4", name);
}

}  // namespace cbtm
