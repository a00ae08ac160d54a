#include "runtime/copy_stream.h"

#include <algorithm>

#include "runtime/check.h"
#include "runtime/phases.h"

namespace cbtm::cuda {
namespace {

/// A long copy goes in pieces: the few bytes that an operator's own copy takes get their turn between two of them (a
/// GPU has one engine for copies from the host), after 0.3 ms at 25 GB/s at most.
constexpr int64_t kPieceBytes = int64_t{8} << 20;

class StreamUpload final : public Upload {
 public:
  StreamUpload(int device_index, cudaStream_t operators, cudaStream_t copies)
      : device_index_(device_index), operators_(operators), copies_(copies) {}

  void release() override { CBTM_CUDA(cudaEventRecord(released_, operators_)); }

  void start(void* destination, const void* host_source, int64_t bytes) override {
    CBTM_CUDA(cudaSetDevice(device_index_));  // a new thread's is 0
    CBTM_CUDA(cudaStreamWaitEvent(copies_, released_));
    for (int64_t done = 0; done < bytes; done += kPieceBytes)
      CBTM_CUDA(cudaMemcpyAsync(static_cast<char*>(destination) + done, static_cast<const char*>(host_source) + done,
                                static_cast<size_t>(std::min(kPieceBytes, bytes - done)), cudaMemcpyHostToDevice,
                                copies_));
    CBTM_CUDA(cudaEventRecord(arrived_, copies_));
  }

  void finish() override { CBTM_CUDA(cudaStreamWaitEvent(operators_, arrived_)); }

 private:
  int device_index_;
  cudaStream_t operators_, copies_;
  Event released_;  ///< on the stream of the operators
  Event arrived_;   ///< on the stream of the copies
};

}  // namespace

CopyStream::CopyStream(int device_index, cudaStream_t operators) : device_index_(device_index), operators_(operators) {
  Phases::name_stream(copies_, "weights of experts");
}

std::unique_ptr<Upload> CopyStream::make_upload() {
  return std::make_unique<StreamUpload>(device_index_, operators_, copies_);
}

std::shared_ptr<void> CopyStream::allocate_host(int64_t bytes) {
  CBTM_CUDA(cudaSetDevice(device_index_));
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the failed allocation is not an error of the next launch
    return nullptr;
  }
  CBTM_CUDA(status);
  return {data, [](void* memory) { cudaFreeHost(memory); }};
}

void CopyStream::synchronize() { CBTM_CUDA(cudaStreamSynchronize(copies_)); }

}  // namespace cbtm::cuda
