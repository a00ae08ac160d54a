#pragma once

#include <cstdint>

#include "runtime/device_memory.h"

namespace cbtm::cuda {

/// A piece of device memory that allocations are carved from, one after another; the piece is freed when the last of
/// them has been given back.
class ReservedMemory {
 public:
  static constexpr int64_t kAlignment = 256;

  bool empty() const { return !memory_; }
  /// Takes `memory` over; there must be none yet.
  void own(DeviceMemory memory);
  /// The next `bytes`, or null where there is no room.
  void* take(int64_t bytes);
  /// False if `data` is not from here.
  bool give_back(void* data) noexcept;

 private:
  DeviceMemory memory_;
  int64_t used_ = 0;
  int64_t pieces_ = 0;  ///< taken and not given back
};

}  // namespace cbtm::cuda
