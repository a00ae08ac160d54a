#include "model/kv_pages.h"

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/inference.h"

namespace cbtm {

int64_t KeyValuePages::open() {
  sequences_[next_handle_] = {};
  return next_handle_++;
}

void KeyValuePages::close(int64_t handle) {
  const auto found = sequences_.find(handle);
  CBTM_ASSERT(found != sequences_.end(), "a sequence is closed once");
  free_pages_.insert(free_pages_.end(), found->second.pages.begin(), found->second.pages.end());
  sequences_.erase(found);
}

int64_t KeyValuePages::length(int64_t handle) const { return sequences_.at(handle).length; }

/// Buffer by buffer, so that beside the larger ones there is only one old one at a time.
void KeyValuePages::grow(int64_t pages) {
  const int64_t row_bytes = width_ * dtype_bytes(dtype_);
  buffers_.resize(static_cast<size_t>(2 * layers_));
  for (DeviceBuffer& buffer : buffers_) {
    DeviceBuffer larger = device_.allocate(pages * kPageTokens * row_bytes, "key-value cache");
    if (page_count_ > 0)
      device_.copy(larger.view(dtype_, page_count_ * kPageTokens, width_),
                   buffer.view(dtype_, page_count_ * kPageTokens, width_));
    buffer = std::move(larger);
  }
  for (int64_t page = pages; page-- > page_count_;) free_pages_.push_back(static_cast<int32_t>(page));
  page_count_ = pages;
}

void KeyValuePages::make_free(int64_t pages) {
  while (static_cast<int64_t>(free_pages_.size()) < pages) {
    const int64_t least = page_count_ + pages - static_cast<int64_t>(free_pages_.size());
    const int64_t doubled = std::max({int64_t{16}, 2 * page_count_, least});
    const int64_t old_buffer = bytes() / (2 * layers_);  // one is there twice while it is copied
    CacheRoom room = CacheRoom::refused;
    int64_t wanted = doubled;
    for (const int64_t count : {doubled, least}) {
      wanted = count;
      room = room_ ? room_((count - page_count_) * page_bytes() + old_buffer) : CacheRoom::granted;
      if (room != CacheRoom::refused) break;
    }
    if (room == CacheRoom::refused)
      throw CacheFull(fmt::format(
          "key-value caches need {} beside the weights, more than is left of the memory that both may take; raise "
          "--memory, or ask for a shorter text",
          format_bytes(least * page_bytes())));
    if (room != CacheRoom::granted) continue;
    try {
      grow(wanted);
    } catch (const Error& error) {  // the device has less than the budget, or there is no budget
      throw CacheFull(error.what());
    }
  }
}

int64_t KeyValuePages::missing_pages(const Sequence& sequence, int64_t count) const {
  const int64_t missing =
      ceil_divide(sequence.length + count, kPageTokens) - static_cast<int64_t>(sequence.pages.size());
  return std::max<int64_t>(missing, 0);
}

void KeyValuePages::hold(int64_t handle, int64_t tokens) {
  Sequence& sequence = sequences_.at(handle);
  const int64_t missing = missing_pages(sequence, tokens - sequence.length);
  make_free(missing);
  take_pages(sequence, missing);
}

void KeyValuePages::take_pages(Sequence& sequence, int64_t count) {
  CBTM_ASSERT(static_cast<int64_t>(free_pages_.size()) >= count, "room is made before sequences grow");
  sequence.pages.insert(sequence.pages.end(), free_pages_.rbegin(), free_pages_.rbegin() + count);
  free_pages_.resize(free_pages_.size() - static_cast<size_t>(count));
}

void KeyValuePages::reserve(std::span<const int64_t> handles, std::span<const int32_t> offsets) {
  int64_t missing = 0;
  for (size_t i = 0; i < handles.size(); ++i)
    missing += missing_pages(sequences_.at(handles[i]), offsets[i + 1] - offsets[i]);
  make_free(missing);
}

void KeyValuePages::extend(int64_t handle, int64_t count) {
  Sequence& sequence = sequences_.at(handle);
  take_pages(sequence, missing_pages(sequence, count));
  sequence.length += count;
}

KeyValueCache KeyValuePages::layer(int64_t layer, ConstTensorView block_table) {
  return {.keys = buffers_[static_cast<size_t>(2 * layer)].view(dtype_, page_count_ * kPageTokens, width_),
          .values = buffers_[static_cast<size_t>(2 * layer + 1)].view(dtype_, page_count_ * kPageTokens, width_),
          .page_size = kPageTokens,
          .block_table = block_table};
}

std::vector<int32_t> KeyValuePages::block_table(std::span<const int64_t> handles, int64_t& pages_max) const {
  size_t longest = 1;
  for (const int64_t handle : handles) longest = std::max(longest, sequences_.at(handle).pages.size());
  std::vector<int32_t> table(handles.size() * longest, 0);
  for (size_t s = 0; s < handles.size(); ++s) {
    const std::vector<int32_t>& pages = sequences_.at(handles[s]).pages;
    std::copy(pages.begin(), pages.end(), table.begin() + static_cast<int64_t>(s * longest));
  }
  pages_max = static_cast<int64_t>(longest);
  return table;
}

}  // namespace cbtm
