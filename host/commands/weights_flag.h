#pragma once

#include "cbtm/model/weight_format.h"
#include "commands/command_line.h"

namespace cbtm {

/// --weights f32|bf16|int8|int4: what inference keeps the matrices in.
void add_weights_flag(CommandLine& line);
WeightFormat weights_flag(const CommandLine& line);

}  // namespace cbtm
