#pragma once

#include <vector>

#include "report/line_chart.h"
#include "report/run_facts.h"

namespace cbtm::report {

/// Held-out loss over tokens: every point that was measured.
std::vector<Point> held_out_curve(const ModelFacts& model);

/// Training loss over tokens: means over sixty equal stretches of the steps, each at its last step; skipped steps (loss
/// not finite) do not count. Fewer than sixty steps are shown as they are.
std::vector<Point> training_curve(const ModelFacts& model);

}  // namespace cbtm::report
