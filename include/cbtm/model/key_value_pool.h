#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "cbtm/device/device.h"
#include "cbtm/model/memory_budget.h"
#include "cbtm/model/weight_streamer.h"

namespace cbtm {

class KeyValuePages;
enum class CacheRoom : uint8_t;

/// The key-value caches of models that share a budget: one paged cache for all models of one shape. Caches come before
/// weights, because weights can be streamed. When a cache has to grow and the budget is used up, weights of all but two
/// models are dropped first, then caches that are not needed now are closed, then weights of all but one are dropped.
class KeyValuePool {
 public:
  KeyValuePool(Device& device, MemoryBudget& budget, WeightStreamer& weights);
  ~KeyValuePool();
  KeyValuePool(const KeyValuePool&) = delete;
  KeyValuePool& operator=(const KeyValuePool&) = delete;

  /// The one cache of all models with this many layers and keys of this width and type.
  KeyValuePages& pages(int64_t layers, int64_t width, DType dtype);
  /// `reclaim` is called when caches can grow no further. It closes sequences that are not needed now (if they are
  /// needed later, their models read them again), and says whether there were any.
  void set_reclaim(std::function<bool()> reclaim) { reclaim_ = std::move(reclaim); }
  int64_t bytes() const;

 private:
  CacheRoom room(int64_t bytes);

  Device& device_;
  MemoryBudget& budget_;
  WeightStreamer& weights_;
  std::map<std::tuple<int64_t, int64_t, DType>, std::unique_ptr<KeyValuePages>> pages_;
  std::function<bool()> reclaim_;
};

}  // namespace cbtm
