#include "runtime/collectives.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "cbtm/base/error.h"
#include "cbtm/device/device_error.h"
#include "runtime/check.h"
#include "runtime/handles.h"
#include "runtime/nccl_library.h"
#include "runtime/phases.h"

namespace cbtm::cuda {
namespace {

/// Between two looks at whether an exchange under way has failed. Its end is told without such a look.
constexpr std::chrono::milliseconds kLookInterval{50};

ncclDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f64: return ncclFloat64;
    case DType::bf16: return ncclBfloat16;
    case DType::f16: return ncclFloat16;
    default: break;
  }
  CBTM_ASSERT(dtype == DType::f32, "weights, gradients and sums are exchanged");
  return ncclFloat32;
}

/// How many of the calls of wait() have been told their end, by the stream of the operators.
struct Told {
  std::mutex mutex;
  std::condition_variable changed;
  int64_t count = 0;

  /// `shared`: a std::shared_ptr<Told> on the heap, which is taken over.
  static void CUDART_CB count_one(void* shared) {
    const std::unique_ptr<std::shared_ptr<Told>> told(static_cast<std::shared_ptr<Told>*>(shared));
    const std::lock_guard lock((*told)->mutex);
    ++(*told)->count;
    (*told)->changed.notify_all();
  }
};

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(const GroupMember& member, ncclComm_t communicator, int rank, int size)
      : operators_(member.operators), communicator_(communicator), rank_(rank), size_(size) {
    Phases::name_stream(stream_, "exchange between GPUs");
  }
  NcclCollectives(const NcclCollectives&) = delete;
  NcclCollectives& operator=(const NcclCollectives&) = delete;
  ~NcclCollectives() override {
    cudaStreamSynchronize(stream_);
    if (!aborted_) nccl().comm_destroy(communicator_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void reduce_scatter(ConstTensorView values, TensorView own) override {
    CBTM_ASSERT(values.size() == size_ * own.size(), "every device gets the same share");
    begin();
    CBTM_NCCL(communicator_, nccl().reduce_scatter(values.data, own.data, static_cast<size_t>(own.size()),
                                                   data_type(own.dtype), ncclSum, communicator_, stream_));
  }
  void all_reduce(ConstTensorView values, TensorView sum) override {
    CBTM_ASSERT(values.size() == sum.size(), "a sum has the shape of what is added");
    begin();
    CBTM_NCCL(communicator_, nccl().all_reduce(values.data, sum.data, static_cast<size_t>(sum.size()),
                                               data_type(sum.dtype), ncclSum, communicator_, stream_));
  }
  void all_gather(ConstTensorView own, TensorView all) override {
    CBTM_ASSERT(all.size() == size_ * own.size(), "every device gives the same share");
    begin();
    CBTM_NCCL(communicator_, nccl().all_gather(own.data, all.data, static_cast<size_t>(own.size()),
                                               data_type(own.dtype), communicator_, stream_));
  }

  void join() override {
    CBTM_CUDA(cudaEventRecord(exchanged_, stream_));
    CBTM_CUDA(cudaStreamWaitEvent(operators_, exchanged_));
  }

  void wait() override {
    CBTM_CUDA(cudaEventRecord(finished_, operators_));
    auto told = std::make_unique<std::shared_ptr<Told>>(told_);  // the stream may come so far after this object's end
    CBTM_CUDA(cudaLaunchHostFunc(operators_, &Told::count_one, told.get()));
    told.release();
    const int64_t wanted = ++waits_;
    while (true) {
      check_group();
      {
        std::unique_lock lock(told_->mutex);
        if (told_->changed.wait_for(lock, kLookInterval, [&] { return told_->count >= wanted; })) break;
      }
      // After an error of the GPU nothing is told any more.
      const cudaError_t status = cudaEventQuery(finished_);
      if (status != cudaErrorNotReady) CBTM_CUDA(status);
    }
    check_group();  // an abort, too, lets the operators run on
  }

  void abort() noexcept override {
    {
      const std::lock_guard lock(mutex_);
      if (aborted_) return;
      aborted_ = true;  // no call begins from now on; one under way is what NCCL's abort ends
    }
    nccl().comm_abort(communicator_);
  }

 private:
  /// The next operation comes after what the operators called so far write.
  void begin() {
    check_group();
    CBTM_CUDA(cudaEventRecord(written_, operators_));
    CBTM_CUDA(cudaStreamWaitEvent(stream_, written_));
  }
  void check_group() {
    const std::lock_guard lock(mutex_);
    if (aborted_) fail_device("the exchange between GPUs was ended, as another GPU failed");
    ncclResult_t state = ncclSuccess;
    CBTM_NCCL(communicator_, nccl().comm_get_async_error(communicator_, &state));
    if (state != ncclInProgress) check_nccl(state, communicator_, "the exchange between GPUs", __FILE__, __LINE__);
  }

  cudaStream_t operators_;
  Stream stream_{StreamPriority::urgent};  ///< operators of a whole step may be queued before
  Event written_;                          ///< what an operation reads, by the operators
  Event exchanged_;                        ///< what the operations write
  Event finished_;                         ///< what was called before wait()
  ncclComm_t communicator_;
  int rank_, size_;
  std::mutex mutex_;
  bool aborted_ = false;
  int64_t waits_ = 0;  ///< calls of wait()
  std::shared_ptr<Told> told_ = std::make_shared<Told>();
};

}  // namespace

std::vector<std::unique_ptr<Collectives>> connect_gpus(std::span<const GroupMember> members) {
  const auto size = static_cast<int>(members.size());
  std::vector<int> indices;
  for (const GroupMember& member : members) indices.push_back(member.device_index);
  std::vector<ncclComm_t> communicators(members.size(), nullptr);
  CBTM_NCCL(nullptr, nccl().comm_init_all(communicators.data(), size, indices.data()));
  std::vector<std::unique_ptr<Collectives>> group;
  for (int rank = 0; rank < size; ++rank) {
    const CurrentGpu current(members[static_cast<size_t>(rank)].device_index);  // its streams and events are made there
    group.push_back(std::make_unique<NcclCollectives>(members[static_cast<size_t>(rank)],
                                                      communicators[static_cast<size_t>(rank)], rank, size));
  }
  return group;
}

}  // namespace cbtm::cuda
