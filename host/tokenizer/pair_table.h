#pragma once

#include <cstdint>
#include <vector>

namespace cbtm {

/// A hash table from pairs of ids (pair_key) to their numbers, 0, 1, 2, ... in the order in which they came.
class PairTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  PairTable() : slots_(1024) {}

  uint32_t size() const { return size_; }
  /// The number of a pair, or kNone.
  uint32_t find(uint64_t pair) const { return slots_[slot_of(pair)].number; }
  /// The number of a pair; a new one gets size().
  uint32_t find_or_add(uint64_t pair) {
    Slot& slot = slots_[slot_of(pair)];
    if (slot.number != kNone) return slot.number;
    slot = {pair, size_++};
    const uint32_t number = slot.number;
    if (size_ * uint64_t{2} > slots_.size()) grow();
    return number;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    uint32_t number = kNone;
  };

  size_t slot_of(uint64_t pair) const {
    const size_t mask = slots_.size() - 1;
    uint64_t hash = pair * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 32;
    size_t slot = hash & mask;
    while (slots_[slot].number != kNone && slots_[slot].pair != pair) slot = (slot + 1) & mask;
    return slot;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.number != kNone) slots_[slot_of(slot.pair)] = slot;
  }

  std::vector<Slot> slots_;  ///< a power of two, at most half full
  uint32_t size_ = 0;
};

}  // namespace cbtm
