#pragma once

#include <cstdint>

namespace cbtm::cuda {

/// A piece of device memory that allocations are carved from, one after another; the piece is freed when the last of
/// them has been given back.
class ReservedMemory {
 public:
  ReservedMemory() = default;
  ReservedMemory(const ReservedMemory&) = delete;
  ReservedMemory& operator=(const ReservedMemory&) = delete;
  ~ReservedMemory();

  static constexpr int64_t kAlignment = 256;

  bool empty() const { return memory_ == nullptr; }
  /// Takes `memory` (of cudaMalloc) over; there must be none yet.
  void own(void* memory, int64_t bytes);
  /// The next `bytes`, or null where there is no room.
  void* take(int64_t bytes);
  /// False if `data` is not from here.
  bool give_back(void* data) noexcept;

 private:
  char* memory_ = nullptr;
  int64_t bytes_ = 0;
  int64_t used_ = 0;
  int64_t pieces_ = 0;  ///< taken and not given back
};

}  // namespace cbtm::cuda
