#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace cbtm::cuda {

struct Probe {
  cudaError_t status = cudaSuccess;  ///< of loading a kernel of this build
  int64_t free_bytes = 0;
};

/// Whether this build's kernels can be loaded on GPU `index`, and its free memory. The current device stays.
Probe probe_gpu(int index);

}  // namespace cbtm::cuda
