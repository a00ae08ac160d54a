#pragma once

#include "cbtm/model/upcycle.h"
#include "commands/command_line.h"

namespace cbtm {

/// How --moe-experts, --moe-layers, --router-init and --seed make a mixture of experts of the dense model. Throws a
/// usage Error for what cannot be.
Upcycling upcycling_flags(const CommandLine& line, const ModelSpec& dense);

}  // namespace cbtm
