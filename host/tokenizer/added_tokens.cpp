#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "cbtm/base/utf8.h"
#include "tokenizer/character_classes.h"

namespace cbtm {

AddedTokenTree::AddedTokenTree() : index_(1, -1) {}

void AddedTokenTree::insert(std::string_view content, int32_t index) {
  uint32_t node = 0;
  for (const char character : content) {
    const auto byte = static_cast<uint8_t>(character);
    if (node == 0) first_[byte] = true;
    const auto [child, is_new] = children_.emplace(uint64_t{node} << 8 | byte, static_cast<uint32_t>(index_.size()));
    if (is_new) index_.push_back(-1);
    node = child->second;
  }
  index_[node] = index;
}

int32_t AddedTokenTree::longest(std::string_view text, size_t place) const {
  if (!first_[static_cast<uint8_t>(text[place])]) return -1;
  int32_t best = -1;
  uint32_t node = 0;
  for (; place < text.size(); ++place) {
    const auto child = children_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[place]));
    if (child == children_.end()) break;
    node = child->second;
    if (index_[node] >= 0) best = index_[node];
  }
  return best;
}

namespace {

/// The last character of valid UTF-8.
char32_t last_character(std::string_view text) {
  size_t place = text.size() - 1;
  while (place > 0 && (static_cast<uint8_t>(text[place]) & 0xC0) == 0x80) --place;
  return decode_utf8(text, place).code_point;
}

bool is_space(char32_t character) { return character_classes()[character] == CharacterClass::space; }

bool is_word(char32_t character) {
  const CodePointRange* end = kSingleWordRanges + kSingleWordRangeCount;
  const CodePointRange* range = std::lower_bound(
      kSingleWordRanges, end, character, [](const CodePointRange& r, char32_t value) { return r.last < value; });
  return range != end && range->first <= character;
}

}  // namespace

size_t leading_space(std::string_view text) {
  size_t place = 0;
  while (place < text.size()) {
    const Utf8Step step = decode_utf8(text, place);
    if (!is_space(step.code_point)) break;
    place += step.bytes;
  }
  return place;
}

size_t trailing_space(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const char32_t last = last_character(text.substr(0, text.size() - bytes));
    if (!is_space(last)) break;
    std::string encoded;
    append_utf8(last, encoded);
    bytes += encoded.size();
  }
  return bytes;
}

bool begins_with_word(std::string_view text) { return !text.empty() && is_word(decode_utf8(text, 0).code_point); }
bool ends_with_word(std::string_view text) { return !text.empty() && is_word(last_character(text)); }

}  // namespace cbtm
