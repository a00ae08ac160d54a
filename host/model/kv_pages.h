#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// The paged key-value cache of all layers of one model: which pages belong to which sequence, and their memory, which
/// grows by doubling.
class KeyValuePages {
 public:
  static constexpr int64_t kPageTokens = 16;

  KeyValuePages(Device& device, int64_t layers, int64_t width, DType dtype)
      : device_(device), layers_(layers), width_(width), dtype_(dtype) {}

  int64_t open();
  void close(int64_t handle);
  int64_t length(int64_t handle) const;
  /// Makes room for `count` more tokens and counts them as held.
  void extend(int64_t handle, int64_t count);
  /// Keys and values of one layer, and the block table of these sequences (int32 [handles, pages], host-built).
  KeyValueCache layer(int64_t layer, ConstTensorView block_table);
  std::vector<int32_t> block_table(std::span<const int64_t> handles, int64_t& pages_max) const;

 private:
  struct Sequence {
    int64_t length = 0;
    std::vector<int32_t> pages;
  };
  void grow(int64_t pages);

  Device& device_;
  int64_t layers_;
  int64_t width_;
  DType dtype_;
  int64_t page_count_ = 0;
  std::vector<DeviceBuffer> buffers_;  ///< keys and values of each layer
  std::vector<int32_t> free_pages_;
  std::map<int64_t, Sequence> sequences_;
  int64_t next_handle_ = 1;
};

}  // namespace cbtm
