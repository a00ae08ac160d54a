#include "cluster/words.h"

#include <array>
#include <unordered_map>

#include "cbtm/base/utf8.h"
#include "cluster/word_tables.h"

namespace cbtm {
namespace {

struct Tables {
  std::vector<uint8_t> bits = std::vector<uint8_t>(0x110000, 0);
  std::unordered_map<char32_t, std::array<uint32_t, 2>> lower;

  Tables() {
    const auto mark = [&](const WordRange* ranges, int count, uint8_t bit) {
      for (int i = 0; i < count; ++i)
        for (uint32_t c = ranges[i].first; c <= ranges[i].last; ++c) bits[c] |= bit;
    };
    mark(kWordRanges, kWordRangesCount, kWordBit);
    mark(kDigitRanges, kDigitRangesCount, kDigitBit);
    mark(kCasedRanges, kCasedRangesCount, kCasedBit);
    mark(kIgnoredRanges, kIgnoredRangesCount, kIgnoredBit);
    for (int i = 0; i < kLowerCaseCount; ++i) {
      bits[kLowerCase[i].from] |= kLowerBit;
      lower[kLowerCase[i].from] = {kLowerCase[i].to[0], kLowerCase[i].to[1]};
    }
  }
};

const Tables& tables() {
  static const Tables kTables;
  return kTables;
}

/// Whether a cased letter follows, ignored characters looked past.
bool cased_follows(std::string_view text, size_t place) {
  while (place < text.size()) {
    const Utf8Step step = decode_utf8(text, place);
    const uint8_t bits = tables().bits[step.code_point];
    if ((bits & kIgnoredBit) == 0) return (bits & kCasedBit) != 0;
    place += step.bytes;
  }
  return false;
}

}  // namespace

uint8_t character_bits(char32_t code_point) { return tables().bits[code_point]; }

WordCharacter word_character(std::string_view text, size_t place) {
  const auto byte = static_cast<uint8_t>(text[place]);
  if (byte < 0x80) return {1, tables().bits[byte]};
  const Utf8Step step = decode_utf8(text, place);
  return {step.bytes, tables().bits[step.code_point]};
}

std::string lower_case(std::string_view text, bool cased_before) {
  const Tables& t = tables();
  std::string out;
  out.reserve(text.size() + 8);
  for (size_t place = 0; place < text.size();) {
    const auto byte = static_cast<uint8_t>(text[place]);
    if (byte < 0x80) {
      out += static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte);
      const uint8_t bits = t.bits[byte];
      if ((bits & kIgnoredBit) == 0) cased_before = (bits & kCasedBit) != 0;
      ++place;
      continue;
    }
    const Utf8Step step = decode_utf8(text, place);
    const char32_t c = step.code_point;
    const uint8_t bits = t.bits[c];
    if (c == kCapitalSigma) {
      append_utf8(cased_before && !cased_follows(text, place + step.bytes) ? 0x3C2 : 0x3C3, out);
    } else if ((bits & kLowerBit) != 0) {
      const auto& to = t.lower.at(c);
      append_utf8(to[0], out);
      if (to[1] != 0) append_utf8(to[1], out);
    } else {
      append_utf8(c, out);
    }
    if ((bits & kIgnoredBit) == 0) cased_before = (bits & kCasedBit) != 0;
    place += step.bytes;
  }
  return out;
}

bool is_number(std::string_view token) { return (word_character(token, 0).bits & kDigitBit) != 0; }

const std::vector<std::string>& english_stop_words() {
  static const std::vector<std::string> kWords(kEnglishStopWords, kEnglishStopWords + kEnglishStopWordCount);
  return kWords;
}

}  // namespace cbtm
