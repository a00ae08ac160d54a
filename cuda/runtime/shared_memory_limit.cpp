#include "runtime/shared_memory_limit.h"

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

using KernelOnGpu = std::pair<const void*, int>;

std::mutex mutex;
std::map<KernelOnGpu, int> allowed;

KernelOnGpu on_current_gpu(const void* kernel) {
  int gpu = 0;
  CBTM_CUDA(cudaGetDevice(&gpu));
  return {kernel, gpu};
}

}  // namespace

int shared_bytes_allowed(const void* kernel) {
  const KernelOnGpu key = on_current_gpu(kernel);
  const std::scoped_lock lock(mutex);
  const auto found = allowed.find(key);
  return found == allowed.end() ? 0 : found->second;
}

void allow_shared_bytes(const void* kernel, int bytes) {
  const KernelOnGpu key = on_current_gpu(kernel);
  const std::scoped_lock lock(mutex);
  int& now = allowed[key];
  if (bytes <= now) return;
  CBTM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  now = bytes;
}

}  // namespace cbtm::cuda
