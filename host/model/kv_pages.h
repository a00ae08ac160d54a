#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {

/// What comes of asking for memory for caches: it may be taken; sequences were closed instead, so that there may be
/// free pages now; or neither.
enum class CacheRoom : uint8_t { granted, freed, refused };

/// The paged key-value cache of all layers of models of one shape: which pages belong to which sequence, and their
/// memory, which grows by doubling where that much is granted.
class KeyValuePages {
 public:
  static constexpr int64_t kPageTokens = 16;

  /// `room`: asked before so many bytes more are taken; without it they are.
  KeyValuePages(Device& device, int64_t layers, int64_t width, DType dtype,
                std::function<CacheRoom(int64_t bytes)> room = {})
      : device_(device), layers_(layers), width_(width), dtype_(dtype), room_(std::move(room)) {}

  int64_t open();
  void close(int64_t handle);
  int64_t length(int64_t handle) const;
  int64_t bytes() const { return page_count_ * page_bytes(); }
  /// Gives the sequence pages for `tokens` tokens altogether. Throws CacheFull, and changes no sequence, if that much
  /// is not granted.
  void hold(int64_t handle, int64_t tokens);
  /// Makes room for offsets[i + 1] - offsets[i] more tokens of handles[i]. Throws as hold() does.
  void reserve(std::span<const int64_t> handles, std::span<const int32_t> offsets);
  /// Counts `count` more tokens, for which room was made, as held.
  void extend(int64_t handle, int64_t count);
  /// Keys and values of one layer, and the block table of these sequences (int32 [handles, pages], host-built).
  KeyValueCache layer(int64_t layer, ConstTensorView block_table);
  std::vector<int32_t> block_table(std::span<const int64_t> handles, int64_t& pages_max) const;

 private:
  struct Sequence {
    int64_t length = 0;
    std::vector<int32_t> pages;
  };
  int64_t page_bytes() const { return 2 * layers_ * kPageTokens * width_ * dtype_bytes(dtype_); }
  int64_t missing_pages(const Sequence& sequence, int64_t count) const;
  void make_free(int64_t pages);
  void take_pages(Sequence& sequence, int64_t count);
  void grow(int64_t pages);

  Device& device_;
  int64_t layers_;
  int64_t width_;
  DType dtype_;
  std::function<CacheRoom(int64_t)> room_;
  int64_t page_count_ = 0;
  std::vector<DeviceBuffer> buffers_;  ///< keys and values of each layer
  std::vector<int32_t> free_pages_;
  std::map<int64_t, Sequence> sequences_;
  int64_t next_handle_ = 1;
};

}  // namespace cbtm
