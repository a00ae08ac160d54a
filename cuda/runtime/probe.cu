#include "runtime/probe.h"

namespace cbtm::cuda {
namespace {

// Does nothing; its attributes can be read only where the binary has code for the GPU.
__global__ void probe_kernel() {}

}  // namespace

Probe probe_gpu(int index) {
  Probe probe;
  int before = 0;
  probe.status = cudaGetDevice(&before);
  if (probe.status == cudaSuccess) probe.status = cudaSetDevice(index);
  cudaFuncAttributes attributes{};
  if (probe.status == cudaSuccess) probe.status = cudaFuncGetAttributes(&attributes, probe_kernel);
  size_t free = 0, total = 0;
  if (probe.status == cudaSuccess) probe.status = cudaMemGetInfo(&free, &total);
  probe.free_bytes = static_cast<int64_t>(free);
  cudaSetDevice(before);
  cudaGetLastError();
  return probe;
}

}  // namespace cbtm::cuda
