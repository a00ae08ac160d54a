#pragma once

#include <string>

#include "cbtm/device/device.h"
#include "cbtm/run/evaluation_result.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// The evaluate stage of a run, on its held-out documents (valid): seed, dense baseline, the mixture of experts where
/// the run has one, and the ensemble with top-1,
/// 2, 4, ... and all experts and its expert x cluster matrix, each at the router temperature that is best on the tune
/// documents, which is then recorded in the experts' router. Models kept along the way (snapshots) are evaluated for
/// the curve of gain against budget, and removed. Writes RUN/evaluation/*.json; returns the numbers in run.json.
/// `memory_bytes`: of the device, for the experts together; 0: what is free.
EvaluationSummary evaluate_run(Device& device, const RunDirectory& run, int64_t memory_bytes, bool redo,
                               const std::string& command);

}  // namespace cbtm
