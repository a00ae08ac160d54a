#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/device/collectives.h"
#include "cbtm/device/device_buffer.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

class ClusterOperators;
class ModelOperators;
class OptimizerOperators;
class UploadStream;
struct ProfileRange;

/// A copy to the host that runs beside the operators.
class HostCopy {
 public:
  virtual ~HostCopy() = default;
  /// Until it is complete; throws Error if it failed. On any thread.
  virtual void wait() = 0;
  /// The same, and the operators called from now on may write to the sources. On the thread that calls operators.
  virtual void release_sources() { wait(); }
};
struct HostCopyPiece {
  void* destination;   ///< memory of the host
  const void* source;  ///< of the device
  int64_t bytes;
};

/// Operators kept as they were called, to be run again with the same views and numbers (on a GPU: a CUDA graph).
class RecordedOperators {
 public:
  virtual ~RecordedOperators() = default;
  /// False when they cannot be run again, as the device has forgotten host numbers (sequence offsets) that they read:
  /// record anew.
  virtual bool valid() const = 0;
  virtual void run() = 0;
};

/// What any device must be able to do: memory, and operators over tensor views of its memory. Model code is written
/// once against this class. Operators run in the order of the calls; copy_to_host and synchronize wait for them.
/// Deterministic: the same calls on the same device give the same bits, whatever the number of threads.
/// Shapes are asserted (programming errors); out of memory is an Error that says what was asked for and what is free.
class Device {
 public:
  virtual ~Device() = default;

  /// "cpu (16 threads, AVX-512)", for people.
  virtual std::string description() const = 0;
  /// Multiply-adds count as two; 0 when unknown. The CPU's are measured once a process, by a product of matrices; a
  /// GPU's are those of its tensor cores with 16-bit numbers, from its datasheet.
  virtual double peak_flops() = 0;
  /// Of the memory, from the driver; 0 when unknown.
  virtual double peak_bytes_per_second() const { return 0; }
  /// Bytes that could still be allocated, less what a GPU needs beside: 1 GiB, or 5 percent of a small one's memory.
  virtual int64_t free_bytes() const = 0;

  /// Whether the model operators take activations and weights of this type.
  virtual bool computes_in(DType dtype) const { return dtype == DType::f32; }
  /// The type that training uses unless told otherwise.
  virtual DType training_type() const { return DType::f32; }

  /// Tokens of a micro-batch in training, beyond which more gain little speed.
  virtual int64_t micro_batch_rows() const { return 4096; }

  // Memory.
  DeviceBuffer allocate(int64_t bytes, std::string_view purpose);  ///< 64-byte aligned, not initialised
  virtual void copy_to_device(void* destination, const void* host_source, int64_t bytes) = 0;
  virtual void copy_to_host(void* host_destination, const void* source, int64_t bytes) = 0;
  virtual void copy(TensorView destination, ConstTensorView source) = 0;  ///< same shape; converts the dtype
  virtual void fill_zero(TensorView destination) = 0;
  virtual void synchronize() = 0;
  /// `data` itself if the host may read it, else null (then copy_to_host).
  virtual const void* host_readable(const void* data) const = 0;
  /// Makes memory of the host (a mapped file) usable as the device's own without copying: returns it, or null if this
  /// device cannot.
  virtual void* use_host_memory(const void* data) const = 0;
  /// Copies that run beside the operators (cbtm/device/upload.h), or null where the host's memory is the device's.
  virtual UploadStream* uploads() { return nullptr; }

  /// Starts copies that read what the operators called so far write. Operators may write to the sources again after
  /// HostCopy::release_sources(). By default the copies are complete on return.
  virtual std::unique_ptr<HostCopy> start_copy_to_host(std::vector<HostCopyPiece> pieces);
  /// Takes memory for the following allocations now, in one piece, so that they cannot fail; freed with the last of
  /// them. Throws Error like allocate. Where memory comes by the page this does nothing.
  virtual void reserve(int64_t bytes, std::string_view purpose) {
    static_cast<void>(bytes);
    static_cast<void>(purpose);
  }

  /// What the operators called up to end_phase() belong to, for a profiler's timeline. Phases nest.
  virtual void begin_phase(const char* name) { static_cast<void>(name); }
  virtual void end_phase() {}
  /// Has a profiler that waits for it (cudaProfilerStart) capture only these phases.
  virtual void profile(const ProfileRange& range);
  class Phase {
   public:
    Phase(Device& device, const char* name) : device_(device) { device_.begin_phase(name); }
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;
    ~Phase() { device_.end_phase(); }

   private:
    Device& device_;
  };

  /// Whether record() works here.
  virtual bool records() const { return false; }
  /// Records the operators that `calls` calls, without running them. The same calls must have been made before, so
  /// that scratch memory, algorithms and host numbers are there; null if some are not: run them once more first.
  virtual std::unique_ptr<RecordedOperators> record(const std::function<void()>& calls);

  /// Before a thread's first call, on threads other than the one that opened the device, and on that one when it has
  /// opened another device since.
  virtual void bind_thread() {}
  /// Makes `devices`, of which this is the first, a group that works together: one object each, in their order. Throws
  /// Error if they cannot be one.
  virtual std::vector<std::unique_ptr<Collectives>> connect(std::span<Device* const> devices);

  // The operators, in groups. They belong to the device and live as long as it does.
  virtual ModelOperators& model_operators() = 0;
  virtual OptimizerOperators& optimizer_operators() = 0;
  virtual ClusterOperators& cluster_operators() = 0;

  /// Rows that many kernels gather are read with the least waste where each starts at a multiple of so many bytes.
  virtual int64_t row_alignment_bytes() const { return 1; }

 protected:
  friend class DeviceBuffer;
  virtual void* allocate_bytes(int64_t bytes, std::string_view purpose) = 0;
  virtual void release_bytes(void* data, int64_t bytes) noexcept = 0;
};

/// The CPU device (host/cpu). open_device.h opens any by its name.
std::unique_ptr<Device> make_cpu_device();

}  // namespace cbtm
