#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cbtm/accounting/run_cost.h"

namespace cbtm {

/// What the stages of a run took, and would take on some numbers of devices, for people: some lines.
std::string run_cost_text(const RunCost& cost, const std::vector<int64_t>& devices);

}  // namespace cbtm
