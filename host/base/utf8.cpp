#include "cbtm/base/utf8.h"

#include <cstring>

namespace cbtm {

void append_utf8(char32_t code_point, std::string& out) {
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | (code_point >> 6));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | (code_point >> 12));
    out += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code_point >> 18));
    out += static_cast<char>(0x80 | ((code_point >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code_point & 0x3F));
  }
}

size_t find_invalid_utf8(std::string_view text) {
  size_t place = 0;
  while (place < text.size()) {
    // Eight ASCII bytes at a time: most text is that.
    uint64_t word = 0;
    if (place + 8 <= text.size()) {
      std::memcpy(&word, text.data() + place, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        place += 8;
        continue;
      }
    }
    const Utf8Step step = decode_utf8(text, place);
    if (!step.well_formed) return place;
    place += step.bytes;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t place = 0; place < bytes.size();) {
    const Utf8Step step = decode_utf8(bytes, place);
    if (step.well_formed) {
      out.append(bytes.substr(place, step.bytes));
    } else {
      append_utf8(kReplacementCharacter, out);
    }
    place += step.bytes;
  }
  return out;
}

size_t incomplete_utf8_tail(std::string_view bytes) {
  for (size_t back = 1; back <= 3 && back <= bytes.size(); ++back) {
    const auto byte = static_cast<uint8_t>(bytes[bytes.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // a continuation byte: its leader lies further left
    const uint32_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    if (length <= back) return 0;
    const Utf8Step step = decode_utf8(bytes, bytes.size() - back);
    return !step.well_formed && step.bytes == back ? back : 0;
  }
  return 0;
}

}  // namespace cbtm
