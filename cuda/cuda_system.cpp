#include <cuda_runtime.h>
#include <fmt/format.h>

#include "cuda_device.h"
#include "runtime/probe.h"

namespace cbtm {

CudaDeviceInfo cuda_device_info(int index) {
  CudaDeviceInfo info{.index = index};
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess) {
    info.problem = cudaGetErrorString(status);
    return info;
  }
  info.name = properties.name;
  info.compute_capability = properties.major * 10 + properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  const cuda::Probe probe = cuda::probe_gpu(index);
  info.free_bytes = probe.free_bytes;
  if (probe.status == cudaErrorNoKernelImageForDevice || probe.status == cudaErrorInvalidDeviceFunction ||
      probe.status == cudaErrorInvalidPtx || probe.status == cudaErrorUnsupportedPtxVersion)
    info.problem = fmt::format("this build has no code for it; build with make cuda ARCH={}", info.compute_capability);
  else if (probe.status != cudaSuccess)
    info.problem = cudaGetErrorString(probe.status);
  cudaGetLastError();  // what this machine lacks is not an error of the next call
  return info;
}

CudaSystem cuda_system() {
  CudaSystem system;
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0)
    system.driver = fmt::format("{}.{}", driver / 1000, driver % 1000 / 10);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();  // what this machine lacks is not an error of the next call
  if (system.driver.empty()) {
    system.problem = "there is no NVIDIA driver on this machine";
  } else if (status == cudaErrorInsufficientDriver) {
    system.problem = fmt::format("the NVIDIA driver is too old (it is for CUDA {}, this build for {}.{}); update it",
                                 system.driver, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  } else if (status != cudaSuccess || count == 0) {
    system.problem = status == cudaSuccess ? "there is no GPU on this machine" : cudaGetErrorString(status);
  } else {
    system.device_count = count;
  }
  return system;
}

}  // namespace cbtm
