#pragma once

#include <span>
#include <string>

#include "cbtm/plan/training_plan.h"
#include "cbtm/train/training_shape.h"

namespace cbtm {

/// Makes the systems of one plan.
class Planner {
 public:
  Planner(std::span<Device* const> devices, const PlanRequest& request, const CorpusSurvey& survey,
          const CorpusStageTimes& corpus_times, TrainingTimer& timer);

  PlannedSystem dense();
  PlannedSystem experts(int64_t k);
  /// A system of one other model: the larger dense one, or the mixture of experts.
  PlannedSystem other(const NamedModel& model, const std::string& kind);
  /// Of the dense model and of `k` experts, on 1, 2, 4, ... devices.
  std::vector<PlannedRate> update_rates();

 private:
  /// Devices that train one model together in the plan.
  std::vector<Device*> together(int64_t count) const;
  double train_tokens() const;
  int64_t order_bytes(int64_t models) const;
  bool measured_group(int64_t count) const;

  void size(PlannedSystem& system, const ModelSpec& model) const;
  void add_corpus_stages(PlannedSystem& system, int64_t k) const;
  /// A stage in which all devices train one model, as far as they can.
  PlannedStage joint_stage(const std::string& name, const ModelSpec& model, const TrainingSettings& settings);
  PlannedStage experts_stage(const PlannedSystem& system);
  PlannedStage evaluation(const PlannedSystem& system, const ModelSpec& model);
  double step_on(int64_t count, const ModelSpec& model, const TrainingSettings& settings, TimeBasis& basis);
  ChosenShape shape_of(int64_t count, const ModelSpec& model, const TrainingSettings& settings, int64_t models) const;

  std::span<Device* const> devices_;
  const PlanRequest& request_;
  const CorpusSurvey& survey_;
  const CorpusStageTimes& corpus_times_;
  TrainingTimer& timer_;
  bool trains_together_;
  HostMemory host_;  ///< but for the order of the documents
};

}  // namespace cbtm
