#pragma once

#include <string>

#include "report/run_facts.h"

namespace cbtm::report {

/// What training and inference cost: by formula from the model's description, and measured by stage.
std::string cost_section(const RunFacts& facts);

}  // namespace cbtm::report
