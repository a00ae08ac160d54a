#include "pinned_memory.h"

#include <algorithm>
#include <cstring>

#include "check.h"

namespace cbtm::cuda {

PinnedMemory::PinnedMemory(int64_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  CBTM_CUDA(cudaMallocHost(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1))));
  data_ = static_cast<char*>(data);
}
PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

StagingRing::StagingRing() : memory_(kSlots * kSlotBytes) {
  for (cudaEvent_t& event : copied_) CBTM_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}
StagingRing::~StagingRing() {
  for (const cudaEvent_t event : copied_) cudaEventDestroy(event);
}

void StagingRing::copy(void* device_destination, const void* host_source, int64_t bytes, cudaStream_t stream) {
  for (int64_t done = 0; done < bytes; done += kSlotBytes) {
    const int64_t count = std::min(kSlotBytes, bytes - done);
    const cudaEvent_t copied = copied_[static_cast<size_t>(next_)];
    char* slot = memory_.data() + next_ * kSlotBytes;
    if (const cudaError_t status = cudaEventQuery(copied); status == cudaErrorNotReady) {
      CBTM_CUDA(cudaEventSynchronize(copied));
    } else {
      CBTM_CUDA(status);
    }
    std::memcpy(slot, static_cast<const char*>(host_source) + done, static_cast<size_t>(count));
    CBTM_CUDA(cudaMemcpyAsync(static_cast<char*>(device_destination) + done, slot, static_cast<size_t>(count),
                              cudaMemcpyHostToDevice, stream));
    CBTM_CUDA(cudaEventRecord(copied, stream));
    next_ = (next_ + 1) % kSlots;
  }
}

}  // namespace cbtm::cuda
