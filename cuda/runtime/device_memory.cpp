#include "runtime/device_memory.h"

#include <algorithm>

#include "cbtm/base/memory.h"
#include "cbtm/device/device_error.h"
#include "runtime/check.h"

namespace cbtm::cuda {

DeviceMemory DeviceMemory::if_there_is_room(int64_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  DeviceMemory memory;
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the failed allocation is not an error of the next launch
    return memory;
  }
  check(status, "cudaMalloc", __FILE__, __LINE__);
  memory.data_ = static_cast<char*>(data);
  memory.bytes_ = bytes;
  return memory;
}

DeviceMemory::DeviceMemory(int64_t bytes, std::string_view purpose) {
  *this = if_there_is_room(bytes);
  if (data_ != nullptr) return;
  size_t free = 0, total = 0;
  CBTM_CUDA(cudaMemGetInfo(&free, &total));
  fail_device(
      "{} needs {} of GPU memory, but only {} of {} are free; see with nvidia-smi who else uses it, lower --memory, "
      "--micro-batch or --sequence, or use --device cpu",
      purpose, format_bytes(bytes), format_bytes(static_cast<int64_t>(free)),
      format_bytes(static_cast<int64_t>(total)));
}

DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) cudaFree(data_);
}

}  // namespace cbtm::cuda
