#include "cuda_device.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/memory.h"
#include "cluster_operators.h"
#include "convert.h"
#include "device_context.h"
#include "model_operators.h"
#include "optimizer_operators.h"
#include "runtime/check.h"
#include "runtime/collectives.h"
#include "runtime/copy_rows.h"
#include "runtime/copy_stream.h"
#include "runtime/gpu_peaks.h"
#include "runtime/handles.h"
#include "runtime/host_copies.h"
#include "runtime/phases.h"

namespace cbtm {
namespace {

/// Memory of a GPU that plans leave free: kernels that are loaded when they are first launched, graphs, other programs'
/// contexts and the driver take some beside what is allocated.
int64_t reserve_of(int64_t memory_bytes) { return std::min<int64_t>(int64_t{1} << 30, memory_bytes / 20); }

/// A GPU as a device.
class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const CudaDeviceInfo& info) : info_(info), context_(info.index) {}

  std::string description() const override {
    return fmt::format("cuda:{} ({}, {} multiprocessors, {})", info_.index, info_.name, info_.multiprocessors,
                       format_bytes(info_.memory_bytes));
  }
  double peak_flops() override { return cuda::datasheet_flops(info_.name); }
  double peak_bytes_per_second() const override { return cuda::memory_bytes_per_second(info_.index); }
  bool computes_in(DType dtype) const override {
    return dtype == DType::f32 || dtype == DType::f16 || (dtype == DType::bf16 && info_.compute_capability >= 80);
  }
  DType training_type() const override { return info_.compute_capability >= 80 ? DType::bf16 : DType::f16; }
  /// Two tiles of 128 rows for each multiprocessor: then even products of a model's width in columns keep all at work.
  int64_t micro_batch_rows() const override {
    return std::clamp<int64_t>(info_.multiprocessors * 256 / 4096 * 4096, 4096, 32'768);
  }
  int64_t free_bytes() const override {  // on any thread
    const cuda::CurrentGpu current(info_.index);
    size_t free = 0, total = 0;
    CBTM_CUDA(cudaMemGetInfo(&free, &total));
    return std::max<int64_t>(0, static_cast<int64_t>(free) - reserve_of(static_cast<int64_t>(total)));
  }
  void bind_thread() override { CBTM_CUDA(cudaSetDevice(info_.index)); }
  std::vector<std::unique_ptr<Collectives>> connect(std::span<Device* const> devices) override {
    std::vector<cuda::GroupMember> members;
    for (Device* device : devices) {
      const auto* gpu = dynamic_cast<CudaDevice*>(device);
      if (gpu == nullptr) fail_usage("{} and {} do not train together", description(), device->description());
      members.push_back({gpu->info_.index, gpu->context_.stream});
    }
    for (Device* device : devices) dynamic_cast<CudaDevice*>(device)->context_.matmul_plans().join_group();
    return cuda::connect_gpus(members);
  }

  void copy_to_device(void* destination, const void* host_source, int64_t bytes) override {
    context_.copy_to_device(destination, host_source, bytes);
  }
  void copy_to_host(void* host_destination, const void* source, int64_t bytes) override {
    context_.copy_to_host(host_destination, source, bytes);
  }
  void copy(TensorView destination, ConstTensorView source) override {
    CBTM_ASSERT(destination.rows == source.rows && destination.columns == source.columns, "a copy keeps the shape");
    if (source.size() == 0) return;
    if (destination.dtype != source.dtype) return cuda::convert(context_, destination, source);
    const auto item = static_cast<size_t>(dtype_bytes(source.dtype));
    cuda::copy_rows({.destination = destination.data,
                     .destination_pitch = static_cast<size_t>(destination.row_stride) * item,
                     .source = source.data,
                     .source_pitch = static_cast<size_t>(source.row_stride) * item,
                     .row_bytes = static_cast<size_t>(source.columns) * item,
                     .rows = static_cast<size_t>(source.rows)},
                    context_.stream);
  }
  void fill_zero(TensorView destination) override {
    if (destination.size() == 0) return;
    const auto item = static_cast<size_t>(dtype_bytes(destination.dtype));
    cuda::zero_rows(destination.data, static_cast<size_t>(destination.row_stride) * item,
                    static_cast<size_t>(destination.columns) * item, static_cast<size_t>(destination.rows),
                    context_.stream);
  }
  std::unique_ptr<HostCopy> start_copy_to_host(std::vector<HostCopyPiece> pieces) override {
    if (host_copies_ == nullptr) host_copies_ = std::make_unique<cuda::HostCopies>(info_.index, context_.stream);
    return host_copies_->start(std::move(pieces));
  }
  void reserve(int64_t bytes, std::string_view purpose) override { context_.reserve(bytes, purpose); }
  void begin_phase(const char* name) override { phases_.begin(name, context_.stream); }
  void end_phase() override { phases_.end(); }
  void profile(const ProfileRange& range) override { phases_.profile(range); }
  bool records() const override { return !phases_.inside_passes(); }
  std::unique_ptr<RecordedOperators> record(const std::function<void()>& calls) override {
    const ForgetBackward forget{model_operators_};  // if the calls end early; at the end of a pass nothing is held
    return context_.record(calls);
  }
  void synchronize() override { CBTM_CUDA(cudaStreamSynchronize(context_.stream)); }
  const void* host_readable(const void*) const override { return nullptr; }
  void* use_host_memory(const void*) const override { return nullptr; }
  UploadStream* uploads() override {
    if (copy_stream_ == nullptr) copy_stream_ = std::make_unique<cuda::CopyStream>(info_.index, context_.stream);
    return copy_stream_.get();
  }

  ModelOperators& model_operators() override { return model_operators_; }
  OptimizerOperators& optimizer_operators() override { return optimizer_operators_; }
  ClusterOperators& cluster_operators() override { return cluster_operators_; }
  int64_t row_alignment_bytes() const override { return 32; }  // a sector

 protected:
  void* allocate_bytes(int64_t bytes, std::string_view purpose) override { return context_.allocate(bytes, purpose); }
  void release_bytes(void* data, int64_t) noexcept override { context_.release(data); }

 private:
  struct ForgetBackward {
    cuda::CudaModelOperators& operators;
    ~ForgetBackward() { operators.forget_backward(); }
  };

  CudaDeviceInfo info_;
  cuda::DeviceContext context_;
  cuda::CudaModelOperators model_operators_{context_};
  cuda::CudaOptimizerOperators optimizer_operators_{context_};
  cuda::CudaClusterOperators cluster_operators_{context_};
  cuda::Phases phases_;
  std::unique_ptr<cuda::HostCopies> host_copies_;  ///< made when first asked for
  std::unique_ptr<cuda::CopyStream> copy_stream_;  ///< made when first asked for
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int index) {
  const CudaSystem system = cuda_system();
  if (!system.problem.empty()) fail("cuda:{}: {}; use --device cpu", index, system.problem);
  if (index < 0 || index >= system.device_count)
    fail("cuda:{}: this machine has {} GPU{}, numbered from 0", index, system.device_count,
         system.device_count == 1 ? "" : "s");
  const CudaDeviceInfo info = cuda_device_info(index);
  if (!info.problem.empty()) fail("cuda:{} ({}): {}; use --device cpu", index, info.name, info.problem);
  return std::make_unique<CudaDevice>(info);
}

}  // namespace cbtm
