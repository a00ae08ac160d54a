#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

namespace cbtm::cuda {

/// Memory of the current GPU, freed with the object.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// Throws DeviceError that says what `purpose` needs and what is free.
  DeviceMemory(int64_t bytes, std::string_view purpose);
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory();

  /// Empty if there is no room.
  static DeviceMemory if_there_is_room(int64_t bytes);

  explicit operator bool() const { return data_ != nullptr; }
  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  /// The memory, which the caller frees with cudaFree.
  char* release() {
    bytes_ = 0;
    return std::exchange(data_, nullptr);
  }

 private:
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace cbtm::cuda
