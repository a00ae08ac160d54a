#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cbtm/base/file_lock.h"
#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/spec.h"
#include "cbtm/model/upcycle.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/train/trainer.h"

namespace cbtm {

/// Stands for the dense baseline where a cluster number is expected.
inline constexpr int64_t kBaseline = -1;

/// Locks the shards for a long reading, so that nobody clusters the run anew meanwhile. Throws Error if somebody does
/// now.
FileLock lock_shards_for_reading(const RunDirectory& run);

/// The averaged parameters of experts (docs/method.md, 'Parameter average').
struct AverageSource {
  std::shared_ptr<const ExpertSet> experts;
  std::vector<double> weights;  ///< [clusters]
  Json description;             ///< which experts, and how much of each, for the seed's settings
};

/// The model that experts branch from: a new model of this shape, a checkpoint, or an average of experts. The latter
/// two are trained further only if there are steps.
struct SeedSource {
  std::optional<ModelSpec> spec;
  std::filesystem::path init;  ///< a checkpoint directory
  std::optional<AverageSource> average;

  bool is_new() const { return spec.has_value(); }
};
/// The shape of the averaged model.
ModelSpec average_spec(const AverageSource& average);

/// Makes run/seed: trains it on all shards, or takes a checkpoint over. A finished seed of the same settings and inputs
/// is left alone. A seed of others is refused unless `redo`. Throws Error.
void train_run_seed(std::span<Device* const> devices, const RunDirectory& run, const SeedSource& source,
                    const TrainingSettings& settings, bool redo, const std::string& command);

/// Branches the seed and trains it: on one shard, into run/experts/NNN, or on all shards, into run/baseline
/// (kBaseline). The same rules apply as for the seed. Also copies the router to run/experts/router, so that the experts
/// can be carried off.
void train_run_branch(std::span<Device* const> devices, const RunDirectory& run, int64_t cluster,
                      const TrainingSettings& settings, bool redo, const std::string& command);

/// Makes a mixture of experts of the seed by sparse upcycling and trains it on all shards, into run/moe: a baseline of
/// as many tokens as the dense one. The same rules apply.
void train_run_mixture(std::span<Device* const> devices, const RunDirectory& run, const Upcycling& upcycling,
                       const TrainingSettings& settings, bool redo, const std::string& command);

/// Calls train_run_branch for every shard. One device trains them one after another. With several devices, each trains
/// one expert at a time, so the result is the same as on one. If an expert fails, the others are trained all the same,
/// and then an Error says which are missing.
void train_run_experts(std::span<Device* const> devices, const RunDirectory& run, const TrainingSettings& settings,
                       bool redo, const std::string& command);

}  // namespace cbtm
