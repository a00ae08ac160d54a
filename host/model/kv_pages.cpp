#include "model/kv_pages.h"

#include <algorithm>

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

void KeyValuePages::grow(int64_t pages) {
  const int64_t row_bytes = width_ * dtype_bytes(dtype_);
  std::vector<DeviceBuffer> larger;
  for (int64_t i = 0; i < 2 * layers_; ++i) {
    larger.push_back(device_.allocate(pages * kPageTokens * row_bytes, "key-value cache"));
    if (page_count_ > 0)
      device_.copy(larger.back().view(dtype_, page_count_ * kPageTokens, width_),
                   buffers_[static_cast<size_t>(i)].view(dtype_, page_count_ * kPageTokens, width_));
  }
  buffers_ = std::move(larger);
  for (int64_t page = pages; page-- > page_count_;) free_pages_.push_back(static_cast<int32_t>(page));
  page_count_ = pages;
}

void KeyValuePages::extend(int64_t handle, int64_t count) {
  Sequence& sequence = sequences_.at(handle);
  sequence.length += count;
  while (static_cast<int64_t>(sequence.pages.size()) * kPageTokens < sequence.length) {
    if (free_pages_.empty()) grow(std::max<int64_t>(16, 2 * page_count_));
    sequence.pages.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
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
