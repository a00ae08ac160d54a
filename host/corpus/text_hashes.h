#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace cbtm {

/// A set of 64-bit hashes in one table: between 11 and 22 bytes for each, half as much again while it grows.
class TextHashes {
 public:
  /// False if it was there already.
  bool insert(uint64_t hash) {
    if (hash == 0) return !std::exchange(has_zero_, true);
    if ((count_ + 1) * 4 > table_.size() * 3) grow();
    uint64_t& slot = find(table_, hash);
    if (slot == hash) return false;
    slot = hash;
    ++count_;
    return true;
  }
  size_t bytes() const { return table_.size() * sizeof(uint64_t); }

 private:
  static uint64_t& find(std::vector<uint64_t>& table, uint64_t hash) {
    size_t place = hash & (table.size() - 1);
    while (table[place] != 0 && table[place] != hash) place = (place + 1) & (table.size() - 1);
    return table[place];
  }
  void grow() {
    std::vector<uint64_t> larger(table_.empty() ? 1024 : table_.size() * 2, 0);
    for (const uint64_t hash : table_)
      if (hash != 0) find(larger, hash) = hash;
    table_ = std::move(larger);
  }

  std::vector<uint64_t> table_;  ///< a power of two; 0 is free
  size_t count_ = 0;
  bool has_zero_ = false;
};

}  // namespace cbtm
