#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

/// One step of decoding.
struct Utf8Step {
  char32_t code_point = 0;  ///< U+FFFD if ill-formed
  uint32_t bytes = 0;       ///< bytes of the character or of the maximal ill-formed subpart; 0 at the end
  bool well_formed = false;
};

/// Decodes the character at offset `place` (Unicode 15, table 3-7: no surrogates, no overlong forms).
inline Utf8Step decode_utf8(std::string_view text, size_t place) {
  if (place >= text.size()) return {};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[place + i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  uint32_t length = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  char32_t code_point = 0;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
    code_point = first & 0x1F;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    code_point = first & 0x0F;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    code_point = first & 0x07;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {kReplacementCharacter, 1, false};
  }
  for (uint32_t i = 1; i < length; ++i) {
    if (place + i >= text.size() || byte(i) < low || byte(i) > high) return {kReplacementCharacter, i, false};
    code_point = (code_point << 6) | (byte(i) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, length, true};
}

void append_utf8(char32_t code_point, std::string& out);

/// The offset of the first ill-formed sequence, or npos.
size_t find_invalid_utf8(std::string_view text);

/// The text with every maximal ill-formed subpart replaced by U+FFFD, as Python's errors="replace" does.
std::string replace_invalid_utf8(std::string_view bytes);

/// The number of bytes at the end (0 to 3) that could still become a whole character.
size_t incomplete_utf8_tail(std::string_view bytes);

}  // namespace cbtm
