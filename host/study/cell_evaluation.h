#pragma once

#include <cstdint>

#include "cbtm/device/device.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/config.h"

namespace cbtm::study {

/// Evaluates the trained models of a cell, whose run this is: fills tune_loss, documents, scores, matrix and tasks of
/// `result`, whose cell is set. Temperatures are chosen on the tune documents, for each number of experts apart, and
/// every system is scored on the same valid documents in the same order. `memory_bytes`: as of evaluate_run.
void evaluate_cell(Device& device, const Config& config, const RunDirectory& run, int64_t memory_bytes,
                   CellResult& result);

}  // namespace cbtm::study
