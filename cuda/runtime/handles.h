#pragma once

#include <cuda_runtime.h>

#include "runtime/check.h"

namespace cbtm::cuda {

/// What waits for room on a GPU's multiprocessors: urgent work goes first.
enum class StreamPriority { normal, urgent };

/// A stream that does not wait for the default stream; destroyed with the object, once its work is done.
class Stream {
 public:
  explicit Stream(StreamPriority priority = StreamPriority::normal) {
    int least = 0, greatest = 0;
    CBTM_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CBTM_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                           priority == StreamPriority::urgent ? greatest : least));
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Makes a GPU the current one of this thread, until the object goes.
class CurrentGpu {
 public:
  explicit CurrentGpu(int index) : index_(index) {
    CBTM_CUDA(cudaGetDevice(&before_));
    if (before_ != index_) CBTM_CUDA(cudaSetDevice(index_));
  }
  CurrentGpu(const CurrentGpu&) = delete;
  CurrentGpu& operator=(const CurrentGpu&) = delete;
  ~CurrentGpu() {
    if (before_ != index_) cudaSetDevice(before_);
  }

 private:
  int index_;
  int before_ = 0;
};

/// An event, destroyed with the object.
class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) { CBTM_CUDA(cudaEventCreateWithFlags(&event_, flags)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace cbtm::cuda
