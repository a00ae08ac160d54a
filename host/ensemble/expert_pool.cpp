#include "cbtm/ensemble/expert_pool.h"

#include <algorithm>

namespace cbtm {

ExpertPool::ExpertPool(Device& device, const ExpertSet& experts, int64_t memory_bytes)
    : device_(device),
      experts_(experts),
      memory_(std::make_shared<ModelMemory>(device, memory_bytes, static_cast<int64_t>(experts.experts().size()))),
      models_(static_cast<size_t>(experts.router().clusters())) {
  model(experts.experts().front().cluster);  // too little memory is said now
}

InferenceModel& ExpertPool::model(int64_t cluster) {
  std::unique_ptr<InferenceModel>& place = models_[static_cast<size_t>(cluster)];
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
