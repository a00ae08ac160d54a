#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

/// What the tf-idf tokeniser needs to know of a code point.
enum CharacterBits : uint8_t {
  kWordBit = 1,     ///< \w
  kDigitBit = 2,    ///< str.isdigit
  kCasedBit = 4,    ///< counts as a letter beside a capital sigma
  kIgnoredBit = 8,  ///< is looked past beside a capital sigma
  kLowerBit = 16,   ///< lower-casing changes it
};
uint8_t character_bits(char32_t code_point);

inline constexpr char32_t kCapitalSigma = 0x3A3;

/// Full lower-casing of text (ill-formed bytes read as U+FFFD), as Python's str.lower: characters may become two, and a
/// capital sigma at a word's end becomes the final one. `cased_before`: a cased letter stands right before the text,
/// nothing but ignored characters between.
std::string lower_case(std::string_view text, bool cased_before = false);

/// Calls body(token) for every token of lower-cased text: runs of two or more word characters (docs/method.md, 'Words
/// and tf-idf'), in order. Tokens that start with a digit are given as they stand: see is_number.
template <typename Body>
void for_each_token(std::string_view lowered, const Body& body);

/// A token whose first character is a digit: the method replaces it by #NUMBER, which is a stop word.
bool is_number(std::string_view token);

/// scikit-learn's 318 English stop words.
const std::vector<std::string>& english_stop_words();

/// Bytes of the character at `place` of well-formed text, and what it is.
struct WordCharacter {
  uint32_t bytes;
  uint8_t bits;
};
WordCharacter word_character(std::string_view text, size_t place);

template <typename Body>
void for_each_token(std::string_view lowered, const Body& body) {
  for (size_t place = 0; place < lowered.size();) {
    const size_t begin = place;
    int characters = 0;
    while (place < lowered.size()) {
      const WordCharacter next = word_character(lowered, place);
      if ((next.bits & kWordBit) == 0) {
        if (place == begin) place += next.bytes;
        break;
      }
      place += next.bytes;
      ++characters;
    }
    if (characters >= 2) body(lowered.substr(begin, place - begin));
  }
}

}  // namespace cbtm
