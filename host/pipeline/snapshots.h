#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// The directories of the models that trainings kept on the way, in order of their names.
std::vector<std::filesystem::path> snapshot_directories(const RunDirectory& run);

/// The experts of one snapshot, if all its models are there and of this run's training, whose dense model has the card
/// `baseline`; else `problem` says what is wrong with them. `device`: as in ExpertSetOptions.
std::optional<ExpertSet> snapshot_experts(Device& device, const RunDirectory& run, const RunDirectory& snapshot,
                                          const ExpertCard& baseline, std::string& problem);

/// Models that an evaluation has used are needed no more. What is not cbtm's stays.
void remove_snapshots(const RunDirectory& run);

}  // namespace cbtm
