#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/model/spec.h"
#include "cbtm/run/device_use.h"
#include "cbtm/run/stage_summary.h"

namespace cbtm {

/// What a finished stage took, from its record in run.json. Numbers that the record does not hold are NaN or -1.
struct StageCost {
  std::string name;    ///< "cluster", "seed", "expert/003"
  double seconds = 0;  ///< wall-clock
  DeviceUse computed_on;
  // Of trainings only.
  int64_t steps = -1;
  int64_t tokens = -1;
  int64_t sequence_length = -1, batch_sequences = -1;
  double flops = std::numeric_limits<double>::quiet_NaN();  ///< by the formula (training_flops)

  bool is_training() const { return steps > 0; }
  bool is_expert() const { return name.starts_with("expert/"); }
  /// Optimizer steps per second, measured.
  double updates_per_second() const { return static_cast<double>(steps) / seconds; }
};

/// What a run took, and what it would take on other numbers of devices (docs/accounting.md, 'A run').
struct RunCost {
  std::vector<StageCost> stages;       ///< in the order of a run, experts by cluster
  double device_seconds = 0;           ///< of all stages whose record says it
  int64_t stages_without_devices = 0;  ///< stages whose record does not say what they were computed on

  /// Null if the run has no such stage.
  const StageCost* find(const std::string& name) const;
  std::vector<double> expert_seconds() const;

  /// Wall-clock seconds from corpus to evaluated ensemble when experts run side by side on `devices` devices like those
  /// that they were trained on, one expert on each at a time: the stages before the experts and the evaluation as they
  /// were measured, and the makespan of the experts. Nothing of the dense baseline is in it.
  double ensemble_seconds(int64_t devices) const;
  /// The same for the dense baseline as it was measured: tokenizer, seed and baseline. It needs no clusters, though its
  /// documents lie in their shards.
  double dense_seconds() const;
};

/// The costs of the stages of `run`. `model`: of the seed, or nothing; then there are no FLOPs. Throws Error that names
/// the stage and the key if a record is damaged.
RunCost run_cost(const RunSummary& run, const std::optional<ModelSpec>& model);

/// Optimizer steps per second against the number of devices.
struct UpdateRate {
  std::string system;  ///< "dense baseline" or "experts"
  int64_t devices = 1;
  double updates_per_second = 0;
  bool measured = false;  ///< else by the formula from the measured rate of one device
};

/// Of the dense baseline: measured for as many devices as it was trained on; for others in proportion, but for no more
/// devices than its batch has sequences, and without an exchange: a bound from above for more devices. Of the experts:
/// steps of all experts together, which is measured for one device, per second of their makespan.
/// `devices`: increasing.
std::vector<UpdateRate> update_rates(const RunCost& cost, const std::vector<int64_t>& devices);

/// 1, 2, 4, ... and `most`.
std::vector<int64_t> doubling_devices(int64_t most);

/// For --json: the stages, the sums, critical path and update rates for `devices`.
Json run_cost_json(const RunCost& cost, const std::vector<int64_t>& devices);

}  // namespace cbtm
