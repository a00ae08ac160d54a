#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cbtm {

/// A token that is cut out of the text before it is split, as the `tokenizers` library does it.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = true;       ///< ordinary text where special strings are off; left out by skip_special
  bool normalized = false;   ///< looked for after those that are not
  bool lstrip = false;       ///< takes the white space in front of it along
  bool rstrip = false;       ///< takes the white space behind it along
  bool single_word = false;  ///< only where no letter, mark, digit or underscore touches it
};

/// The contents of added tokens as a tree of bytes. A look-up costs as many steps as the longest content that matches.
class AddedTokenTree {
 public:
  AddedTokenTree();
  bool empty() const { return children_.empty(); }
  /// `index`: what longest() returns for it.
  void insert(std::string_view content, int32_t index);
  /// The longest content that stands at `place`; -1 if none does.
  int32_t longest(std::string_view text, size_t place) const;

 private:
  std::array<bool, 256> first_{};
  std::unordered_map<uint64_t, uint32_t> children_;  ///< from (node << 8 | byte)
  std::vector<int32_t> index_;                       ///< by node
};

/// Calls text(piece) for the pieces of `all` between added tokens and token(id) for these, in order. Leftmost first,
/// the longest at a place. `special`: also special ones; without it they still hide others that they cover, as in the
/// library.
template <typename Text, typename Token>
void cut_added_tokens(const std::vector<AddedToken>& tokens, const AddedTokenTree& tree, std::string_view all,
                      bool special, const Text& text, const Token& token);

/// Bytes of white space at the begin or at the end of `text`.
size_t leading_space(std::string_view text);
size_t trailing_space(std::string_view text);
/// Whether the first or last character of `text` belongs to a word (Unicode's \w).
bool begins_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

template <typename Text, typename Token>
void cut_added_tokens(const std::vector<AddedToken>& tokens, const AddedTokenTree& tree, std::string_view all,
                      bool special, const Text& text, const Token& token) {
  size_t done = 0;
  if (!tree.empty()) {
    for (size_t place = 0; place < all.size();) {
      const int32_t index = tree.longest(all, place);
      if (index < 0) {
        ++place;
        continue;
      }
      const AddedToken& found = tokens[static_cast<size_t>(index)];
      size_t begin = place;
      size_t end = place + found.content.size();
      place = end;
      if (found.special && !special) continue;
      if (found.single_word && (ends_with_word(all.substr(0, begin)) || begins_with_word(all.substr(end)))) continue;
      if (found.lstrip) begin = done < begin ? begin - trailing_space(all.substr(done, begin - done)) : done;
      if (found.rstrip) end += leading_space(all.substr(end));
      if (begin >= end) continue;  // the token before has taken all of it as its white space
      if (done < begin) text(all.substr(done, begin - done));
      token(found.id);
      done = end;
    }
  }
  if (done < all.size()) text(all.substr(done));
}

}  // namespace cbtm
