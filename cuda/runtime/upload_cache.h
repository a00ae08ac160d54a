#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "runtime/device_memory.h"
#include "runtime/pinned_memory.h"

namespace cbtm::cuda {

/// Small arrays of the host kept on the device by content: the same numbers asked for again are not copied again, and
/// keep their address. When the memory is full everything is forgotten (in stream order: earlier operators still read
/// what they were given) and `generation` grows.
class UploadCache {
 public:
  /// Null during a capture of the stream if the numbers are not there: a copy would be captured, too.
  const int32_t* upload(std::span<const int32_t> values, StagingRing& staging, cudaStream_t stream);
  int64_t generation() const { return generation_; }

  static constexpr int64_t kBytes = int64_t{4} << 20;

 private:
  DeviceMemory memory_{kBytes, "numbers of operators"};
  int64_t used_ = 0;
  int64_t generation_ = 0;
  std::map<std::vector<int32_t>, const int32_t*> places_;
};

}  // namespace cbtm::cuda
