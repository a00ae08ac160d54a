#pragma once

#include <cuda_runtime.h>

#include "cbtm/base/error.h"

namespace cbtm::cuda {

/// Throws DeviceError that names the call and its status, and says what to do.
[[noreturn]] void fail_cuda(cudaError_t status, const char* what, const char* file, int line);

inline void check(cudaError_t status, const char* what, const char* file, int line) {
  if (status != cudaSuccess) [[unlikely]]
    fail_cuda(status, what, file, line);
}

}  // namespace cbtm::cuda

/// A call of the runtime: CBTM_CUDA(cudaMemcpyAsync(...)). Every status is checked.
#define CBTM_CUDA(call) ::cbtm::cuda::check((call), #call, __FILE__, __LINE__)
/// After a launch: CBTM_CUDA_LAUNCHED("layernorm_forward").
#define CBTM_CUDA_LAUNCHED(kernel) ::cbtm::cuda::check(cudaGetLastError(), "launch of " kernel, __FILE__, __LINE__)
