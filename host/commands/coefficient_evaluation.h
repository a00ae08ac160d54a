#pragma once

#include <vector>

#include "cbtm/ensemble/expert_set.h"
#include "commands/command_line.h"

namespace cbtm {

/// --coefficients, "000=1,002=-0.5", by cluster. Throws a usage Error.
std::vector<double> coefficients_flag(const CommandLine& line, const ExpertSet& experts);
/// Throws a usage Error if --coefficients stands beside a flag of routing.
void check_coefficients_alone(const CommandLine& line);

/// `ensemble evaluate --coefficients`. Returns the exit code.
int evaluate_with_coefficients(const CommandLine& line);

}  // namespace cbtm
