#include "model/kv_pages.h"

#include <algorithm>
#include <utility>

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
  const std::vector<int32_t> pages = std::move(found->second.pages);
  sequences_.erase(found);
  for (auto page = pages.rbegin(); page != pages.rend(); ++page)
    release(*page);  // as PromptPages wants it: the last first
  while (sharing() && prompt_cache_->bytes > prompt_cache_->bytes_max && forget_oldest()) ++prompt_cache_->evictions;
}

void KeyValuePages::acquire(int32_t page) {
  PromptPage* const shared = prompt_of_page_[static_cast<size_t>(page)];
  if (users_[static_cast<size_t>(page)]++ > 0 || shared == nullptr) return;
  prompts_.set_used(*shared);
  count_kept(-1);
}

void KeyValuePages::release(int32_t page) {
  if (--users_[static_cast<size_t>(page)] > 0) return;
  PromptPage* const shared = prompt_of_page_[static_cast<size_t>(page)];
  if (shared == nullptr) return free_pages_.push_back(page);
  prompts_.set_unused(*shared);
  count_kept(1);
}

/// Frees the page longest out of use of those that are kept; says whether there was one.
bool KeyValuePages::forget_oldest() {
  const int32_t page = prompts_.forget_oldest();
  if (page < 0) return false;
  prompt_of_page_[static_cast<size_t>(page)] = nullptr;
  free_pages_.push_back(page);
  count_kept(-1);
  return true;
}

void KeyValuePages::count_kept(int64_t pages) {
  prompt_cache_->pages += pages;
  prompt_cache_->bytes += pages * page_bytes();
}

void KeyValuePages::remove_model(int64_t model) {
  prompts_.forget_model(model, [this](int32_t page, bool used) {
    prompt_of_page_[static_cast<size_t>(page)] = nullptr;
    if (used) return;
    free_pages_.push_back(page);
    count_kept(-1);
  });
}

void KeyValuePages::begin_prompt(int64_t handle, int64_t model, std::span<const int32_t> prompt, int64_t unit) {
  Sequence& sequence = sequences_.at(handle);
  if (!sharing() || sequence.length >= static_cast<int64_t>(prompt.size())) return;
  std::vector<int32_t> pages;
  const PromptPage* before = nullptr;
  for (; prompt.size() >= kPageTokens; prompt = prompt.subspan(kPageTokens)) {
    before = prompts_.find(model, before, prompt.first(kPageTokens));
    if (before == nullptr) break;
    pages.push_back(before->page);
  }
  const int64_t tokens = static_cast<int64_t>(pages.size()) * kPageTokens / unit * unit;
  if (tokens <= sequence.length) return;
  pages.resize(static_cast<size_t>(tokens / kPageTokens));
  for (const int32_t page : pages) acquire(page);
  std::swap(sequence.pages, pages);
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) release(*page);
  sequence.length = tokens;
}

void KeyValuePages::share_prompt(int64_t handle, int64_t model, std::span<const int32_t> prompt, int64_t unit) {
  Sequence& sequence = sequences_.at(handle);
  CBTM_ASSERT(static_cast<int64_t>(prompt.size()) <= sequence.length, "only what has been read is shared");
  if (!sharing()) return;
  const int64_t pages = static_cast<int64_t>(prompt.size()) / unit * unit / kPageTokens;
  const PromptPage* before = nullptr;
  for (int64_t p = 0; p < pages; ++p) {
    const auto ids = prompt.subspan(static_cast<size_t>(p * kPageTokens), kPageTokens);
    int32_t& page = sequence.pages[static_cast<size_t>(p)];
    const PromptPage* known = prompts_.find(model, before, ids);
    if (known == nullptr) {
      known = prompt_of_page_[static_cast<size_t>(page)] = prompts_.add(model, before, ids, page);
    } else if (known->page != page) {  // another sequence has read the same: one page is enough
      acquire(known->page);
      release(std::exchange(page, known->page));
    }
    before = known;
  }
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
  users_.resize(static_cast<size_t>(pages), 0);
  prompt_of_page_.resize(static_cast<size_t>(pages), nullptr);
  page_count_ = pages;
}

void KeyValuePages::make_free(int64_t pages) {
  while (static_cast<int64_t>(free_pages_.size()) < pages) {
    const int64_t least = page_count_ + pages - static_cast<int64_t>(free_pages_.size());
    const int64_t doubled = std::max({int64_t{16}, 2 * page_count_, least});
    if (prompts_.unused() > 0) {
      if (try_grow(doubled, /*gently=*/true) == CacheRoom::refused &&
          try_grow(least, /*gently=*/true) == CacheRoom::refused && forget_oldest())
        ++prompt_cache_->evictions;
      continue;
    }
    if (try_grow(doubled, /*gently=*/false) == CacheRoom::refused &&
        try_grow(least, /*gently=*/false) == CacheRoom::refused)
      throw CacheFull(fmt::format(
          "key-value caches need {} beside the weights, more than is left of the memory that both may take; raise "
          "--memory, or ask for a shorter text",
          format_bytes(least * page_bytes())));
  }
}

/// Grows to so many pages, if that is granted.
CacheRoom KeyValuePages::try_grow(int64_t pages, bool gently) {
  const int64_t old_buffer = bytes() / (2 * layers_);  // one is there twice while it is copied
  const CacheRoom room = room_ ? room_((pages - page_count_) * page_bytes() + old_buffer, gently) : CacheRoom::granted;
  if (room != CacheRoom::granted) return room;
  try {
    grow(pages);
  } catch (const Error& error) {  // the device has less than the budget, or there is no budget
    if (gently) return CacheRoom::refused;
    throw CacheFull(error.what());
  }
  return room;
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
  std::for_each(free_pages_.rbegin(), free_pages_.rbegin() + count, [this](int32_t page) { acquire(page); });
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
