#pragma once

#include "commands/command_line.h"

namespace cbtm {

/// cbtm ensemble prior: how probable each expert is for some documents.
int fit_prior(const CommandLine& line);

}  // namespace cbtm
