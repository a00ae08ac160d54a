#include "runtime/pinned_memory.h"

#include <algorithm>
#include <cstring>

#include "cbtm/base/memory.h"
#include "cbtm/device/device_error.h"
#include "runtime/check.h"

namespace cbtm::cuda {

PinnedMemory::PinnedMemory(int64_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the failed allocation is not an error of the next launch
    fail_device("{} of pinned host memory cannot be had; close other programs, or use --device cpu",
                format_bytes(bytes));
  }
  check(status, "cudaMallocHost", __FILE__, __LINE__);
  data_ = static_cast<char*>(data);
}
PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

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

void LandingMemory::copy(void* host_destination, const void* device_source, int64_t bytes, cudaStream_t stream) {
  const auto start = [&](int64_t begin) {
    const int64_t half = begin / kHalfBytes % 2;
    CBTM_CUDA(cudaMemcpyAsync(memory_.data() + half * kHalfBytes, static_cast<const char*>(device_source) + begin,
                              static_cast<size_t>(std::min(kHalfBytes, bytes - begin)), cudaMemcpyDeviceToHost,
                              stream));
    CBTM_CUDA(cudaEventRecord(landed_[static_cast<size_t>(half)], stream));
  };
  if (bytes > 0) start(0);
  for (int64_t begin = 0; begin < bytes; begin += kHalfBytes) {
    if (begin + kHalfBytes < bytes) start(begin + kHalfBytes);
    const int64_t half = begin / kHalfBytes % 2;
    CBTM_CUDA(cudaEventSynchronize(landed_[static_cast<size_t>(half)]));
    std::memcpy(static_cast<char*>(host_destination) + begin, memory_.data() + half * kHalfBytes,
                static_cast<size_t>(std::min(kHalfBytes, bytes - begin)));
  }
}

}  // namespace cbtm::cuda
