#pragma once

#include "cbtm/device/tensor.h"
#include "commands/command_line.h"

namespace cbtm {

/// --weights f32|bf16: the dtype that inference keeps the matrices in.
void add_weights_flag(CommandLine& line);
DType weights_flag(const CommandLine& line);

}  // namespace cbtm
