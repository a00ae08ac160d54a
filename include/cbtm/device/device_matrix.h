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

  /// The same with rows at multiples of the device's row_alignment_bytes; what lies between them is zero.
  static DeviceMatrix padded(Device& device, DType dtype, int64_t rows, int64_t columns, std::string_view purpose);

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

  /// As `reading`; the copy's rows are padded.
  template <typename Element>
  static DeviceMatrix reading_rows(Device& device, std::span<const Element> host, int64_t rows,
                                   std::string_view purpose) {
    const int64_t columns = rows == 0 ? 0 : static_cast<int64_t>(host.size()) / rows;
    if (host.empty() || columns * dtype_bytes(dtype_of<Element>()) % device.row_alignment_bytes() == 0)
      return reading(device, host, rows, purpose);
    DeviceMatrix matrix = padded(device, dtype_of<Element>(), rows, columns, purpose);
    matrix.write(host);
    return matrix;
  }

  TensorView view() const { return view_; }
  template <typename Element>
  void write(std::span<const Element> host) const {
    CBTM_ASSERT(static_cast<int64_t>(host.size()) == view_.size(), "a matrix is written whole");
    copy_from_host(view_.as<Element>(), host.data());
  }
  template <typename Element>
  std::vector<Element> to_host() const {
    std::vector<Element> host(static_cast<size_t>(view_.size()));
    copy_to_host(host.data(), view_.as<Element>());
    return host;
  }

 private:
  void copy_from_host(void* target, const void* host) const;
  void copy_to_host(void* host, const void* source) const;

  Device* device_ = nullptr;
  DeviceBuffer buffer_;
  TensorView view_;
};

}  // namespace cbtm
