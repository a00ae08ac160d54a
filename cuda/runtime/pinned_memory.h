#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

#include "runtime/handles.h"

namespace cbtm::cuda {

/// Pinned memory of the host, freed with the object. Throws DeviceError if it cannot be had.
class PinnedMemory {
 public:
  explicit PinnedMemory(int64_t bytes);
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  ~PinnedMemory();

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  int64_t bytes_;
};

/// Copies from pageable memory of the host through a ring of pinned slots: the source may be changed as soon as `copy`
/// returns, and the copy itself happens in stream order. The host waits only when all slots are still on their way.
class StagingRing {
 public:
  void copy(void* device_destination, const void* host_source, int64_t bytes, cudaStream_t stream);

  static constexpr int kSlots = 64;
  static constexpr int64_t kSlotBytes = int64_t{256} << 10;

 private:
  PinnedMemory memory_{kSlots * kSlotBytes};
  std::array<Event, kSlots> copied_;
  int next_ = 0;
};

/// Copies to pageable memory of the host by way of two pinned halves: one fills while the other is emptied. Waits for
/// the stream.
class LandingMemory {
 public:
  void copy(void* host_destination, const void* device_source, int64_t bytes, cudaStream_t stream);

  static constexpr int64_t kHalfBytes = int64_t{4} << 20;

 private:
  PinnedMemory memory_{2 * kHalfBytes};
  std::array<Event, 2> landed_;
};

}  // namespace cbtm::cuda
