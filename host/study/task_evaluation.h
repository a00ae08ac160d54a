#pragma once

#include <cstdint>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/inference.h"
#include "cbtm/route/mixture.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/config.h"

namespace cbtm::study {

/// Scores the study's few-shot tasks with one model, and adds them to `result`. `run`: whose tokenizer it has.
void score_tasks(InferenceModel& model, const Config& config, const RunDirectory& run, CellResult& result);

/// The same with experts, mixed in each of these ways.
void score_tasks(Device& device, const ExpertSet& experts, const std::vector<Mixture>& mixtures, const Config& config,
                 int64_t memory_bytes, CellResult& result);

}  // namespace cbtm::study
