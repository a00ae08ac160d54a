#include "runtime/host_copies.h"

#include <future>

#include "runtime/check.h"
#include "runtime/phases.h"

namespace cbtm::cuda {
namespace {

class RunningCopy final : public HostCopy {
 public:
  RunningCopy(std::shared_ptr<std::shared_future<void>> done, cudaEvent_t read, cudaStream_t operators)
      : done_(std::move(done)), read_(read), operators_(operators) {}
  RunningCopy(const RunningCopy&) = delete;
  RunningCopy& operator=(const RunningCopy&) = delete;
  ~RunningCopy() override { done_->wait(); }
  void wait() override { done_->get(); }
  void release_sources() override {
    wait();
    CBTM_CUDA(cudaStreamWaitEvent(operators_, read_));
  }

 private:
  std::shared_ptr<std::shared_future<void>> done_;
  cudaEvent_t read_;
  cudaStream_t operators_;
};

}  // namespace

HostCopies::HostCopies(int device_index, cudaStream_t operators) : device_index_(device_index), operators_(operators) {
  Phases::name_stream(copies_, "copies to the host");
}

std::unique_ptr<HostCopy> HostCopies::start(std::vector<HostCopyPiece> pieces) {
  if (last_ != nullptr) static_cast<std::shared_future<void>*>(last_.get())->wait();
  CBTM_CUDA(cudaEventRecord(written_, operators_));
  CBTM_CUDA(cudaStreamWaitEvent(copies_, written_));
  auto done = std::make_shared<std::shared_future<void>>(
      std::async(std::launch::async, [this, pieces = std::move(pieces)] {
        CBTM_CUDA(cudaSetDevice(device_index_));  // a new thread's is 0
        for (const HostCopyPiece& piece : pieces) landing_.copy(piece.destination, piece.source, piece.bytes, copies_);
        CBTM_CUDA(cudaEventRecord(read_, copies_));
      }).share());
  last_ = done;
  return std::make_unique<RunningCopy>(std::move(done), read_, operators_);
}

}  // namespace cbtm::cuda
