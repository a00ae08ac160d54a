#include "model/prompt_pages.h"

#include <algorithm>

#include "cbtm/base/error.h"

namespace cbtm {

/// FNV-1a over whole tokens, with the mixing of SplitMix64 (Steele, Lea, Flood 2014) at the end.
uint64_t PromptPages::chain_hash(uint64_t before, std::span<const int32_t> ids) {
  uint64_t hash = before ^ 0xcbf29ce484222325u;
  for (const int32_t id : ids) hash = (hash ^ static_cast<uint32_t>(id)) * 0x100000001b3u;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
  return hash ^ (hash >> 31);
}

uint64_t PromptPages::hash_of(int64_t model, const PromptPage* before, std::span<const int32_t> ids) const {
  return hash_(before != nullptr ? before->hash : static_cast<uint64_t>(model), ids);
}

PromptPage* PromptPages::find(int64_t model, const PromptPage* before, std::span<const int32_t> ids) const {
  const auto [first, last] = pages_.equal_range(hash_of(model, before, ids));
  for (auto entry = first; entry != last; ++entry) {
    PromptPage& page = *entry->second;
    if (page.model == model && page.before == before && std::ranges::equal(page.ids, ids)) return &page;
  }
  return nullptr;
}

PromptPage* PromptPages::add(int64_t model, const PromptPage* before, std::span<const int32_t> ids, int32_t page) {
  auto added = std::make_unique<PromptPage>(PromptPage{.model = model,
                                                       .before = before,
                                                       .ids = {ids.begin(), ids.end()},
                                                       .hash = hash_of(model, before, ids),
                                                       .page = page});
  return pages_.emplace(added->hash, std::move(added))->second.get();
}

void PromptPages::set_used(PromptPage& page) {
  if (page.unused_since == 0) return;
  unused_.erase({page.unused_since, &page});
  page.unused_since = 0;
}

void PromptPages::set_unused(PromptPage& page) {
  CBTM_ASSERT(page.unused_since == 0, "a page is given up once");
  page.unused_since = ++clock_;
  unused_.emplace(page.unused_since, &page);
}

int32_t PromptPages::forget_oldest() {
  if (unused_.empty()) return -1;
  PromptPage* const oldest = unused_.begin()->second;
  unused_.erase(unused_.begin());
  const int32_t number = oldest->page;
  const auto [first, last] = pages_.equal_range(oldest->hash);
  pages_.erase(std::find_if(first, last, [&](const auto& entry) { return entry.second.get() == oldest; }));
  return number;
}

}  // namespace cbtm
