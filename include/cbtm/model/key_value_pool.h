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

/// Pages of prompts that are kept for later sequences that begin alike, though no sequence uses them now.
struct PromptCache {
  int64_t bytes_max = 0;  ///< that may be kept; 0: sequences share no pages
  int64_t bytes = 0;      ///< that are kept
  int64_t pages = 0;      ///< likewise
  int64_t evictions = 0;  ///< pages that were given up for others
};

/// The key-value caches of models that share a budget: one paged cache for all models of one shape. Caches come before
/// weights, because weights can be streamed. When a cache has to grow and the budget is used up, pages of prompts that
/// no sequence uses are given up first, then weights of all but two models are dropped, then caches that are not needed
/// now are closed, then weights of all but one are dropped.
class KeyValuePool {
 public:
  KeyValuePool(Device& device, MemoryBudget& budget, WeightStreamer& weights);
  ~KeyValuePool();
  KeyValuePool(const KeyValuePool&) = delete;
  KeyValuePool& operator=(const KeyValuePool&) = delete;

  /// The one cache of all models with this many layers and keys of this width and type.
  KeyValuePages& pages(int64_t layers, int64_t width, DType dtype);
  /// `reclaim` is called when caches can grow no further. It closes sequences that are not needed now (if they are
  /// needed later, their models read them again), and says whether there were any. Of several owners the first that has
  /// some closes them.
  void set_reclaim(const void* owner, std::function<bool()> reclaim) { reclaims_[owner] = std::move(reclaim); }
  void end_reclaim(const void* owner) { reclaims_.erase(owner); }
  int64_t bytes() const;
  /// Lets so many bytes of prompts' pages be kept. To be called before anything is read.
  void set_prompt_cache(int64_t bytes) { prompt_cache_.bytes_max = bytes; }
  const PromptCache& prompt_cache() const { return prompt_cache_; }

 private:
  CacheRoom room(int64_t bytes, bool gently);

  Device& device_;
  MemoryBudget& budget_;
  WeightStreamer& weights_;
  PromptCache prompt_cache_;
  std::map<std::tuple<int64_t, int64_t, DType>, std::unique_ptr<KeyValuePages>> pages_;
  std::map<const void*, std::function<bool()>> reclaims_;  ///< by owner
};

}  // namespace cbtm
