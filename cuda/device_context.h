#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cbtm/device/device.h"
#include "matmul.h"
#include "runtime/context.h"
#include "runtime/device_memory.h"
#include "runtime/handles.h"
#include "runtime/pinned_memory.h"
#include "runtime/reserved_memory.h"
#include "runtime/sequence_tables.h"
#include "runtime/upload_cache.h"

namespace cbtm::cuda {

/// The Context of a GPU: stream, scratch memory, uploads, copies.
class DeviceContext final : public Context {
 public:
  explicit DeviceContext(int index);
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;
  ~DeviceContext() override;

  void* workspace(int64_t bytes) override;
  const int32_t* upload(std::span<const int32_t> values) override;
  SequenceTables& sequence_tables(const PassSequences& sequences) override;
  MatmulPlans& matmul_plans() override;

  /// Throws DeviceError that says what was asked for and what is free.
  void* allocate(int64_t bytes, std::string_view purpose);
  void release(void* data) noexcept;
  /// As Device::reserve.
  void reserve(int64_t bytes, std::string_view purpose);
  void copy_to_device(void* destination, const void* host_source, int64_t bytes);
  void copy_to_host(void* host_destination, const void* source, int64_t bytes);

  /// As Device::record, by a capture of the stream.
  std::unique_ptr<RecordedOperators> record(const std::function<void()>& calls);

 private:
  std::unique_ptr<Stream> operators_;  ///< behind `stream`; destroyed last
  ReservedMemory reserved_;
  DeviceMemory workspace_;
  std::unique_ptr<StagingRing> staging_;
  std::unique_ptr<LandingMemory> landing_;
  std::unique_ptr<UploadCache> uploads_;
  std::unique_ptr<SequenceTables> sequence_tables_;
  std::string name_;
  std::unique_ptr<MatmulPlans> matmul_plans_;
};

}  // namespace cbtm::cuda
