#pragma once

#include <cstdint>

namespace cbtm {

/// What GPT-2's expression tells apart.
enum class CharacterClass : uint8_t { other, letter, number, space };

struct CodePointRange {
  uint32_t first, last;  ///< closed
};

// Generated tables (character_ranges.cpp).
extern const CodePointRange kLetterRanges[];
extern const int kLetterRangeCount;
extern const CodePointRange kNumberRanges[];
extern const int kNumberRangeCount;
extern const CodePointRange kSpaceRanges[];
extern const int kSpaceRangeCount;
/// What belongs to a word beside an added token (Unicode's \w; word_ranges.cpp).
extern const CodePointRange kSingleWordRanges[];
extern const int kSingleWordRangeCount;

/// A class for each of the 0x110000 code points.
const CharacterClass* character_classes();

}  // namespace cbtm
