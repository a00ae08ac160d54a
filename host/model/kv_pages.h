#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/key_value_pool.h"
#include "model/prompt_pages.h"

namespace cbtm {

/// What comes of asking for memory for caches: it may be taken; sequences were closed instead, so that there may be
/// free pages now; or neither.
enum class CacheRoom : uint8_t { granted, freed, refused };

/// The paged key-value cache of all layers of models of one shape: which pages belong to which sequence, and their
/// memory, which grows by doubling where that much is granted.
///
/// Full pages of a prompt can belong to several sequences. Those that no sequence uses any more are kept for later ones
/// as far as the prompt cache allows, and are given up, the longest unused first, before the memory grows at the cost
/// of anything else. Nobody writes to a page that others may read.
class KeyValuePages {
 public:
  static constexpr int64_t kPageTokens = 16;

  /// `room`: asked before so many bytes more are taken; without it they are. `gently`: only if nobody has to give up
  /// anything for them. Without a prompt cache no pages are shared.
  using Room = std::function<CacheRoom(int64_t bytes, bool gently)>;
  KeyValuePages(Device& device, int64_t layers, int64_t width, DType dtype, Room room = {},
                PromptCache* prompt_cache = nullptr)
      : device_(device),
        layers_(layers),
        width_(width),
        dtype_(dtype),
        room_(std::move(room)),
        prompt_cache_(prompt_cache) {}

  int64_t open();
  void close(int64_t handle);
  int64_t length(int64_t handle) const;
  /// A number for a model whose prompts' pages are shared among its sequences.
  int64_t add_model() { return next_model_++; }
  /// Its prompts are not known any more.
  void remove_model(int64_t model);
  /// Whether pages of prompts are shared.
  bool sharing() const { return prompt_cache_ != nullptr && prompt_cache_->bytes_max > 0; }
  /// Gives a sequence that has read less of its prompt the pages that hold the beginning of it, as far as they are
  /// known, up to a multiple of `unit` tokens. These count as read.
  void begin_prompt(int64_t handle, int64_t model, std::span<const int32_t> prompt, int64_t unit);
  /// The sequence begins with these tokens: its full pages of them, up to a multiple of `unit` tokens, are shared from
  /// now on.
  void share_prompt(int64_t handle, int64_t model, std::span<const int32_t> prompt, int64_t unit);
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
  void acquire(int32_t page);
  void release(int32_t page);
  bool forget_oldest();
  void count_kept(int64_t pages);
  void make_free(int64_t pages);
  CacheRoom try_grow(int64_t pages, bool gently);
  void take_pages(Sequence& sequence, int64_t count);
  void grow(int64_t pages);

  Device& device_;
  int64_t layers_;
  int64_t width_;
  DType dtype_;
  Room room_;
  PromptCache* prompt_cache_;
  int64_t page_count_ = 0;
  std::vector<DeviceBuffer> buffers_;  ///< keys and values of each layer
  std::vector<int32_t> free_pages_;
  std::vector<int32_t> users_;               ///< by page: sequences that it belongs to
  std::vector<PromptPage*> prompt_of_page_;  ///< by page; null: it is not shared
  PromptPages prompts_;
  std::map<int64_t, Sequence> sequences_;
  int64_t next_handle_ = 1;
  int64_t next_model_ = 1;
};

}  // namespace cbtm
