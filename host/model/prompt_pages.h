#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cbtm {

/// A full page of a key-value cache that holds the next tokens of a prompt of one model.
struct PromptPage {
  int64_t model = 0;
  const PromptPage* before = nullptr;  ///< the page of the tokens before; null: it begins the prompt
  std::vector<int32_t> ids;
  uint64_t hash = 0;  ///< of the model and of all tokens up to the last of these
  int32_t page = 0;
  int64_t unused_since = 0;  ///< 0: in use
};

/// Finds the pages of prompts by their tokens, and knows which of them no sequence uses. Pages are looked up by a hash
/// of the model and of all tokens up to the page's end, and are then compared token by token, so that two prompts of
/// one hash are never taken for each other.
///
/// Whoever uses a page uses those before it, too, and gives it up before them. So the page longest out of use never has
/// another page after it.
class PromptPages {
 public:
  using Hash = uint64_t (*)(uint64_t before, std::span<const int32_t> ids);
  static uint64_t chain_hash(uint64_t before, std::span<const int32_t> ids);
  explicit PromptPages(Hash hash = chain_hash) : hash_(hash) {}

  /// The page with these tokens after those of `before`; null if there is none.
  PromptPage* find(int64_t model, const PromptPage* before, std::span<const int32_t> ids) const;
  /// Remembers a page, in use, that find() does not find.
  PromptPage* add(int64_t model, const PromptPage* before, std::span<const int32_t> ids, int32_t page);
  void set_used(PromptPage& page);
  void set_unused(PromptPage& page);
  int64_t unused() const { return static_cast<int64_t>(unused_.size()); }
  /// Forgets the page longest out of use, and returns its number; -1 if all are in use.
  int32_t forget_oldest();
  /// Forgets all pages of a model. `each` receives their numbers, and whether they were in use.
  template <typename Each>
  void forget_model(int64_t model, const Each& each) {
    for (auto entry = pages_.begin(); entry != pages_.end();) {
      PromptPage& page = *entry->second;
      if (page.model != model) {
        ++entry;
        continue;
      }
      each(page.page, page.unused_since == 0);
      set_used(page);
      entry = pages_.erase(entry);
    }
  }

 private:
  uint64_t hash_of(int64_t model, const PromptPage* before, std::span<const int32_t> ids) const;

  Hash hash_;
  std::unordered_multimap<uint64_t, std::unique_ptr<PromptPage>> pages_;
  std::set<std::pair<int64_t, PromptPage*>> unused_;  ///< by the time since when
  int64_t clock_ = 0;
};

}  // namespace cbtm
