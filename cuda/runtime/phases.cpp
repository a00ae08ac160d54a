#include "runtime/phases.h"

#include <cuda_profiler_api.h>
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtCudaRt.h>

#include <string_view>

#include "runtime/check.h"

namespace cbtm::cuda {

void Phases::begin(const char* name, cudaStream_t stream) {
  const bool named = !range_.phase.empty() && std::string_view(name) == range_.phase;
  if (named && ++met_ == range_.first) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CBTM_CUDA(cudaStreamIsCapturing(stream, &capture));
    if (capture != cudaStreamCaptureStatusNone)
      fail_usage("--profile {}: a part of a CUDA graph; pass --no-cuda-graph", name);
    CBTM_CUDA(cudaDeviceSynchronize());  // what came before is not captured
    CBTM_CUDA(cudaProfilerStart());
    capturing_ = true;
  }
  nvtxRangePushA(name);
  captured_.push_back(named);
}

void Phases::end() {
  CBTM_ASSERT(!captured_.empty(), "a phase ends that has begun");
  const bool named = captured_.back();
  captured_.pop_back();
  if (named && capturing_ && met_ == range_.first + range_.count - 1) {
    cudaDeviceSynchronize();  // no throw: a phase may end because one is under way
    cudaProfilerStop();
    capturing_ = false;
  }
  nvtxRangePop();
}

void Phases::name_stream(cudaStream_t stream, const char* name) { nvtxNameCudaStreamA(stream, name); }

OperatorRange::OperatorRange(const char* name) { nvtxRangePushA(name); }
OperatorRange::~OperatorRange() { nvtxRangePop(); }

}  // namespace cbtm::cuda
