#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/model_memory.h"

namespace cbtm {

/// The experts of a set on one device. An expert is loaded when it is first used. Weights and key-value caches take at
/// most a given amount of the device's memory. If not all experts fit, their weights come and go
/// (cbtm/model/weight_streamer.h).
class ExpertPool {
 public:
  /// `memory_bytes` is as in ModelMemory. Throws Error if one expert does not fit. The set must outlive the pool.
  ExpertPool(Device& device, const ExpertSet& experts, int64_t memory_bytes);
  /// The same in memory that other models use, too. Experts whose files are still those that `before` has loaded, in
  /// the same memory, are not loaded again: both pools use them.
  ExpertPool(Device& device, const ExpertSet& experts, std::shared_ptr<ModelMemory> memory,
             const ExpertPool* before = nullptr);

  Device& device() { return device_; }
  const ExpertSet& experts() const { return experts_; }
  InferenceModel& model(int64_t cluster);
  ModelMemory& memory() { return *memory_; }

  /// Calls `use` for each of these clusters with its model. While one model computes, the weights of the next are
  /// copied. The direction changes from call to call, so that a call begins with the expert that the last call has left
  /// on the device.
  void for_each(const std::vector<int64_t>& clusters, const std::function<void(int64_t, InferenceModel&)>& use);

  /// As KeyValuePool::set_reclaim.
  void set_reclaim(const void* owner, std::function<bool()> reclaim) {
    memory_->caches.set_reclaim(owner, std::move(reclaim));
  }
  void end_reclaim(const void* owner) { memory_->caches.end_reclaim(owner); }
  ModelMemoryStatistics statistics() const { return memory_->statistics(); }

 private:
  std::shared_ptr<InferenceModel> still_loaded(const std::filesystem::path& directory) const;

  Device& device_;
  const ExpertSet& experts_;
  std::shared_ptr<ModelMemory> memory_;
  std::vector<std::shared_ptr<InferenceModel>> models_;  ///< by cluster
  bool backwards_ = false;
};

}  // namespace cbtm
