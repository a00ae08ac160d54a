#pragma once

#include <cstdint>

namespace cbtm {

struct WordRange {
  uint32_t first, last;  ///< closed
};
struct LowerCase {
  uint32_t from;
  uint32_t to[2];  ///< the second is 0 unless one character becomes two
};

// Generated tables (word_tables.cpp).
extern const char* const kWordTablesUnicode;  ///< version of Unicode they hold
extern const WordRange kWordRanges[];
extern const int kWordRangesCount;
extern const WordRange kDigitRanges[];
extern const int kDigitRangesCount;
extern const WordRange kCasedRanges[];
extern const int kCasedRangesCount;
extern const WordRange kIgnoredRanges[];
extern const int kIgnoredRangesCount;
extern const LowerCase kLowerCase[];
extern const int kLowerCaseCount;
extern const char* const kEnglishStopWords[];
extern const int kEnglishStopWordCount;

}  // namespace cbtm
