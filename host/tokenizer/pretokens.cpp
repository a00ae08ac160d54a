#include "tokenizer/pretokens.h"

#include <algorithm>
#include <vector>

#include "cbtm/base/utf8.h"
#include "tokenizer/character_classes.h"

namespace cbtm {

const CharacterClass* character_classes() {
  static const std::vector<CharacterClass> kClasses = [] {
    std::vector<CharacterClass> classes(0x110000, CharacterClass::other);
    const auto fill = [&](const CodePointRange* ranges, int count, CharacterClass value) {
      for (int i = 0; i < count; ++i)
        std::fill(classes.begin() + ranges[i].first, classes.begin() + ranges[i].last + 1, value);
    };
    fill(kLetterRanges, kLetterRangeCount, CharacterClass::letter);
    fill(kNumberRanges, kNumberRangeCount, CharacterClass::number);
    fill(kSpaceRanges, kSpaceRangeCount, CharacterClass::space);
    return classes;
  }();
  return kClasses.data();
}

namespace {

struct Character {
  CharacterClass kind;
  uint32_t bytes;  ///< 0 at the end of the text
};

Character character_at(std::string_view text, size_t place, const CharacterClass* classes) {
  if (place >= text.size()) return {CharacterClass::other, 0};
  const auto byte = static_cast<uint8_t>(text[place]);
  if (byte < 0x80) return {classes[byte], 1};
  const Utf8Step step = decode_utf8(text, place);
  return {classes[step.code_point], step.bytes};
}

/// End of the run of characters of one class that starts at `place`.
size_t run_end(std::string_view text, size_t place, CharacterClass kind, const CharacterClass* classes) {
  while (true) {
    const Character next = character_at(text, place, classes);
    if (next.bytes == 0 || next.kind != kind) return place;
    place += next.bytes;
  }
}

/// Bytes of a contraction ('s 't 're 've 'm 'll 'd) at `place`, which holds an apostrophe; 0 if there is none.
size_t contraction_bytes(std::string_view text, size_t place) {
  const std::string_view rest = text.substr(place + 1, 2);
  if (rest.empty()) return 0;
  if (rest[0] == 's' || rest[0] == 't' || rest[0] == 'm' || rest[0] == 'd') return 2;
  if (rest == "re" || rest == "ve" || rest == "ll") return 3;
  return 0;
}

}  // namespace

size_t pretoken_end(std::string_view text, size_t place) {
  static const CharacterClass* const kClasses = character_classes();
  if (text[place] == '\'')
    if (const size_t bytes = contraction_bytes(text, place)) return place + bytes;
  const Character first = character_at(text, place, kClasses);
  if (first.kind != CharacterClass::space) return run_end(text, place + first.bytes, first.kind, kClasses);
  if (text[place] == ' ') {
    const Character second = character_at(text, place + 1, kClasses);
    if (second.bytes != 0 && second.kind != CharacterClass::space)
      return run_end(text, place + 1 + second.bytes, second.kind, kClasses);
  }
  // White space: all of it at the end of the text, else all but its last character, which may belong to what follows.
  size_t last = place;
  size_t end = place + first.bytes;
  while (true) {
    const Character next = character_at(text, end, kClasses);
    if (next.bytes == 0) return end;
    if (next.kind != CharacterClass::space) return last > place ? last : end;
    last = end;
    end += next.bytes;
  }
}

}  // namespace cbtm
