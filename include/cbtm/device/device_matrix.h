#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// A matrix in a device's memory, for host code that keeps its own data there between operators.
class DeviceMatrix {
 public:
  DeviceMatrix() = default;
  /// Not initialised.
  DeviceMatrix(Device& device, DType dtype, int64_t rows, int64_t columns, std::string_view purpose)
      : device_(&device),
        buffer_(device.allocate(rows * columns * dtype_bytes(dtype), purpose)),
        view_(buffer_.view(dtype, rows, columns)) {}

  /// A copy of `host` [rows, columns].
  template <typename Element>
  static DeviceMatrix copy_of(Device& device, std::span<const Element> host, int64_t rows, std::string_view purpose) {
    const int64_t count = static_cast<int64_t>(host.size());
    DeviceMatrix matrix(device, dtype_of<Element>(), rows, rows == 0 ? 0 : count / rows, purpose);
    matrix.write(host);
    return matrix;
  }
  /// `host` itself where the device can use the host's memory (it must then outlive this object and not be written),
  /// else a copy.
  template <typename Element>
  static DeviceMatrix reading(Device& device, std::span<const Element> host, int64_t rows, std::string_view purpose) {
    void* shared = host.empty() ? nullptr : device.use_host_memory(host.data());
    if (shared == nullptr) return copy_of(device, host, rows, purpose);
    DeviceMatrix matrix;
    matrix.device_ = &device;
    matrix.view_ = {shared, dtype_of<Element>(), rows, static_cast<int64_t>(host.size()) / rows};
    return matrix;
  }

  TensorView view() const { return view_; }
  template <typename Element>
  void write(std::span<const Element> host) const {
    CBTM_ASSERT(static_cast<int64_t>(host.size()) == view_.size(), "a matrix is written whole");
    device_->copy_to_device(view_.as<Element>(), host.data(), view_.size() * dtype_bytes(view_.dtype));
  }
  template <typename Element>
  std::vector<Element> to_host() const {
    std::vector<Element> host(static_cast<size_t>(view_.size()));
    device_->copy_to_host(host.data(), view_.as<Element>(), view_.size() * dtype_bytes(view_.dtype));
    return host;
  }

 private:
  Device* device_ = nullptr;
  DeviceBuffer buffer_;
  TensorView view_;
};

}  // namespace cbtm
