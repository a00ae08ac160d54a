#pragma once

#include "commands/command_line.h"

namespace cbtm {

/// cbtm ensemble average: one model whose parameters are a weighted mean of the experts'.
int average_experts(const CommandLine& line);

}  // namespace cbtm
