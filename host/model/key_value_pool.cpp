#include "cbtm/model/key_value_pool.h"

#include "model/kv_pages.h"

namespace cbtm {

KeyValuePool::KeyValuePool(Device& device, MemoryBudget& budget, WeightStreamer& weights)
    : device_(device), budget_(budget), weights_(weights) {
  budget_.add_holder([this] { return bytes(); });
}

KeyValuePool::~KeyValuePool() = default;

KeyValuePages& KeyValuePool::pages(int64_t layers, int64_t width, DType dtype) {
  std::unique_ptr<KeyValuePages>& of_shape = pages_[{layers, width, dtype}];
  if (of_shape == nullptr)
    of_shape = std::make_unique<KeyValuePages>(
        device_, layers, width, dtype, [this](int64_t more_bytes, bool gently) { return room(more_bytes, gently); },
        &prompt_cache_);
  return *of_shape;
}

int64_t KeyValuePool::bytes() const {
  int64_t sum = 0;
  for (const auto& [shape, pages] : pages_) sum += pages->bytes();
  return sum;
}

CacheRoom KeyValuePool::room(int64_t bytes, bool gently) {
  const int64_t needed = bytes + weights_.missing_bytes();
  if (gently && !budget_.fits(needed)) return CacheRoom::refused;
  weights_.make_room(needed, /*models_left=*/2);
  if (!budget_.fits(needed))
    for (const auto& [owner, reclaim] : reclaims_)
      if (reclaim()) return CacheRoom::freed;
  weights_.make_room(needed, /*models_left=*/1);
  if (!budget_.fits(needed)) return CacheRoom::refused;
  budget_.note(bytes);
  return CacheRoom::granted;
}

}  // namespace cbtm
