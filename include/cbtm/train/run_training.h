#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "cbtm/base/file_lock.h"
#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/train/trainer.h"

namespace cbtm {

/// Number of the dense baseline where a cluster is asked for.
inline constexpr int64_t kBaseline = -1;

/// A training reads the shards for a long time: held, so that nobody clusters the run anew meanwhile. Throws Error if
/// somebody does now.
FileLock lock_shards_for_reading(const RunDirectory& run);

/// The model that experts branch from: a new one of this shape, or a checkpoint.
struct SeedSource {
  std::optional<OptConfig> config;
  std::filesystem::path init;  ///< a checkpoint directory; trained on only if there are steps
};

/// Trains (or takes over) run/seed on all shards; a finished one of the same settings and inputs is left alone, one of
/// others refused unless `redo`. Throws Error.
void train_run_seed(std::span<Device* const> devices, const RunDirectory& run, const SeedSource& source,
                    const TrainingSettings& settings, bool redo, const std::string& command);

/// Branches the seed and trains it on one shard, into run/experts/NNN, or on all, into run/baseline (kBaseline). The
/// same rules as above. Also puts the router into run/experts/router, so that the experts can be carried off.
void train_run_branch(std::span<Device* const> devices, const RunDirectory& run, int64_t cluster,
                      const TrainingSettings& settings, bool redo, const std::string& command);

/// train_run_branch for every shard. One device trains them one after another; of several each trains one at a time, so
/// that an expert is the same as if it were trained on one. When one fails the others are trained all the same, and an
/// Error then says which are missing.
void train_run_experts(std::span<Device* const> devices, const RunDirectory& run, const TrainingSettings& settings,
                       bool redo, const std::string& command);

/// Settings of an expert beside those of a dense model of the same compute: the same steps with 1/k of the batch (the
/// paper's way; docs/method.md, 'Training'), or, with `keep_batch`, the same batch and 1/k of the steps. Throws a usage
/// Error if the batch cannot be divided by k.
TrainingSettings expert_settings(const TrainingSettings& dense, int64_t clusters, bool keep_batch);

}  // namespace cbtm
