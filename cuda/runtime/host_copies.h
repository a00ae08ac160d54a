#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "cbtm/device/device.h"
#include "runtime/handles.h"
#include "runtime/pinned_memory.h"

namespace cbtm::cuda {

/// Copies to pageable memory of the host on a stream of their own, carried on by a thread while operators run. One at a
/// time: the next waits for it.
class HostCopies {
 public:
  HostCopies(int device_index, cudaStream_t operators);
  HostCopies(const HostCopies&) = delete;
  HostCopies& operator=(const HostCopies&) = delete;
  ~HostCopies() { last_.reset(); }  // waits, before anything that its thread uses goes

  /// After what `operators` holds now. The copy must end before this object does.
  std::unique_ptr<HostCopy> start(std::vector<HostCopyPiece> pieces);

 private:
  int device_index_;
  cudaStream_t operators_;
  Stream copies_{StreamPriority::urgent};
  Event written_;  ///< the sources, by the operators
  Event read_;     ///< the sources, by the last copy
  LandingMemory landing_;
  std::shared_ptr<void> last_;  ///< the running copy's thread
};

}  // namespace cbtm::cuda
