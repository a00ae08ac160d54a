#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/model_group.h"

namespace cbtm {

/// The experts of a set on one device, each made ready when it is first used. Their weights and key-value caches take
/// at most so much of its memory: where not all fit, weights come and go (cbtm/model/model_group.h).
class ExpertPool {
 public:
  /// `memory_bytes`: see ModelGroup. Throws Error if it does not hold one expert. The set outlives the pool.
  ExpertPool(Device& device, const ExpertSet& experts, int64_t memory_bytes);

  Device& device() { return device_; }
  const ExpertSet& experts() const { return experts_; }
  InferenceModel& model(int64_t cluster);

  /// Calls `use` with each of these clusters and its model. Which comes first changes from call to call, so that the
  /// second of two calls begins with what the first has left on the device; the weights of the next one come while one
  /// computes.
  void for_each(const std::vector<int64_t>& clusters, const std::function<void(int64_t, InferenceModel&)>& use);

  void set_reclaim(std::function<bool()> reclaim) { group_->set_reclaim(std::move(reclaim)); }
  const ModelGroupStatistics& statistics() const { return group_->statistics(); }

 private:
  Device& device_;
  const ExpertSet& experts_;
  std::shared_ptr<ModelGroup> group_;
  std::vector<std::unique_ptr<InferenceModel>> models_;  ///< by cluster
  bool backwards_ = false;
};

}  // namespace cbtm
