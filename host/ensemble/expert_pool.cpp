#include "cbtm/ensemble/expert_pool.h"

#include <algorithm>

#include "cbtm/model/checkpoint.h"

namespace cbtm {

ExpertPool::ExpertPool(Device& device, const ExpertSet& experts, int64_t memory_bytes)
    : ExpertPool(device, experts,
                 std::make_shared<ModelMemory>(device, memory_bytes, static_cast<int64_t>(experts.experts().size()))) {}

ExpertPool::ExpertPool(Device& device, const ExpertSet& experts, std::shared_ptr<ModelMemory> memory,
                       const ExpertPool* before)
    : device_(device),
      experts_(experts),
      memory_(std::move(memory)),
      models_(static_cast<size_t>(experts.router().clusters())) {
  for (size_t cluster = 0; before != nullptr && cluster < models_.size(); ++cluster)
    if (experts.present()[cluster] != 0)
      models_[cluster] = before->still_loaded(experts.expert_of(static_cast<int64_t>(cluster)).directory);
  model(experts.experts().front().cluster);  // too little memory is said now
}

/// The model of this directory, if it has been loaded and its files have not changed; else null.
std::shared_ptr<InferenceModel> ExpertPool::still_loaded(const std::filesystem::path& directory) const {
  for (const Expert& expert : experts_.experts()) {
    const std::shared_ptr<InferenceModel>& model = models_[static_cast<size_t>(expert.cluster)];
    if (model != nullptr && expert.directory == directory &&
        model->identity() == ModelCheckpoint::open(directory).identity())
      return model;
  }
  return nullptr;
}

InferenceModel& ExpertPool::model(int64_t cluster) {
  std::shared_ptr<InferenceModel>& place = models_[static_cast<size_t>(cluster)];
  if (place == nullptr) place = experts_.load(device_, cluster, memory_);
  return *place;
}

void ExpertPool::for_each(const std::vector<int64_t>& clusters,
                          const std::function<void(int64_t, InferenceModel&)>& use) {
  std::vector<int64_t> order = clusters;
  if (backwards_) std::reverse(order.begin(), order.end());
  backwards_ = !backwards_;
  for (size_t i = 0; i < order.size(); ++i) {
    InferenceModel& now = model(order[i]);
    now.need_now();
    if (i + 1 < order.size()) model(order[i + 1]).need_next();
    use(order[i], now);
  }
}

}  // namespace cbtm
