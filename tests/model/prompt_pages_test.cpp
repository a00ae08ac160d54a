// The index of prompts' pages: found by their tokens alone, given up in the order of their last use.

#include "model/prompt_pages.h"

#include <doctest/doctest.h>

#include <algorithm>

namespace cbtm {
namespace {

const std::vector<int32_t> kFirst = {1, 2, 3}, kSecond = {4, 5, 6}, kOther = {7, 8, 9};

TEST_CASE("a page is found by its model, its tokens and those before it, whatever the hash says") {
  // All hashes the same: only the comparison tells pages apart.
  PromptPages pages([](uint64_t, std::span<const int32_t>) { return uint64_t{42}; });
  PromptPage* const first = pages.add(1, nullptr, kFirst, 10);
  PromptPage* const second = pages.add(1, first, kSecond, 11);
  PromptPage* const of_another_model = pages.add(2, nullptr, kFirst, 12);
  CHECK(pages.find(1, nullptr, kFirst) == first);
  CHECK(pages.find(1, first, kSecond) == second);
  CHECK(pages.find(2, nullptr, kFirst) == of_another_model);
  CHECK(pages.find(1, nullptr, kOther) == nullptr);
  CHECK(pages.find(1, nullptr, kSecond) == nullptr);  // it stands behind other tokens
  CHECK(pages.find(2, of_another_model, kSecond) == nullptr);
  CHECK(pages.find(3, nullptr, kFirst) == nullptr);
}

TEST_CASE("the chain's hash depends on every token before") {
  const uint64_t chain = PromptPages::chain_hash(PromptPages::chain_hash(1, kFirst), kSecond);
  CHECK(chain != PromptPages::chain_hash(PromptPages::chain_hash(2, kFirst), kSecond));
  CHECK(chain != PromptPages::chain_hash(PromptPages::chain_hash(1, kOther), kSecond));
  CHECK(chain != PromptPages::chain_hash(PromptPages::chain_hash(1, kSecond), kFirst));
}

TEST_CASE("what is longest out of use is forgotten first, and never what is in use") {
  PromptPages pages;
  PromptPage* const first = pages.add(1, nullptr, kFirst, 10);
  PromptPage* const second = pages.add(1, first, kSecond, 11);
  PromptPage* const other = pages.add(1, nullptr, kOther, 12);
  CHECK(pages.forget_oldest() == -1);
  pages.set_unused(*second);
  pages.set_unused(*first);
  pages.set_unused(*other);
  pages.set_used(*first);  // it comes back, and is given up again
  pages.set_unused(*first);
  CHECK(pages.unused() == 3);
  CHECK(pages.forget_oldest() == 11);
  CHECK(pages.find(1, first, kSecond) == nullptr);
  CHECK(pages.forget_oldest() == 12);
  pages.set_used(*first);
  CHECK(pages.forget_oldest() == -1);
  CHECK(pages.find(1, nullptr, kFirst) == first);
}

TEST_CASE("a model that goes takes its pages along") {
  PromptPages pages;
  PromptPage* const first = pages.add(1, nullptr, kFirst, 10);
  pages.add(1, first, kSecond, 11);
  PromptPage* const kept = pages.add(2, nullptr, kFirst, 12);
  pages.set_unused(*first);
  std::vector<std::pair<int32_t, bool>> gone;
  pages.forget_model(1, [&](int32_t page, bool used) { gone.emplace_back(page, used); });
  std::ranges::sort(gone);
  CHECK(gone == std::vector<std::pair<int32_t, bool>>{{10, false}, {11, true}});
  CHECK(pages.unused() == 0);
  CHECK(pages.find(1, nullptr, kFirst) == nullptr);
  CHECK(pages.find(2, nullptr, kFirst) == kept);
}

}  // namespace
}  // namespace cbtm
