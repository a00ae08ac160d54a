#pragma once

#include <cstdint>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

class Device;

/// Memory of a device; freed with the object. Movable, not copyable: a copy is a named call of Device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device* device, void* data, int64_t bytes) : device_(device), data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  /// [rows, columns] of `dtype`, starting `byte_offset` into the buffer.
  TensorView view(DType dtype, int64_t rows, int64_t columns, int64_t byte_offset = 0) const {
    CBTM_ASSERT(byte_offset + rows * columns * dtype_bytes(dtype) <= bytes_, "a view lies inside its buffer");
    return {static_cast<char*>(data_) + byte_offset, dtype, rows, columns};
  }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace cbtm
