#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace cbtm {

/// How much memory of a device the weights and key-value caches of its models may take together, and how much they
/// take. Who holds such memory registers and is asked whenever the sum is needed.
class MemoryBudget {
 public:
  /// `bytes` must be positive.
  explicit MemoryBudget(int64_t bytes) : bytes_(bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  /// `held`: the bytes that one holder holds now. Called as long as the budget lives.
  void add_holder(std::function<int64_t()> held) { holders_.push_back(std::move(held)); }

  int64_t bytes() const { return bytes_; }
  int64_t used_bytes() const {
    int64_t sum = 0;
    for (const std::function<int64_t()>& held : holders_) sum += held();
    return sum;
  }
  bool fits(int64_t more) const { return used_bytes() + more <= bytes_; }
  /// Counts `more` bytes, which are about to be taken, on top of what is held now.
  void note(int64_t more = 0) { used_bytes_max_ = std::max(used_bytes_max_, used_bytes() + more); }
  int64_t used_bytes_max() const { return used_bytes_max_; }  ///< of all that was noted

 private:
  int64_t bytes_;
  int64_t used_bytes_max_ = 0;
  std::vector<std::function<int64_t()>> holders_;
};

}  // namespace cbtm
