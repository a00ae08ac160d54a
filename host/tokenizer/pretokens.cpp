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

/// The same in upper case too. U+017F folds to s, so it counts as one.
size_t contraction_bytes_of_any_case(std::string_view text, size_t place) {
  std::string rest(text.substr(place + 1, 2));
  if (rest == "\u017f") return 3;
  for (char& c : rest)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  rest.insert(0, 1, '\'');
  return contraction_bytes(rest, 0);
}

/// End of a piece of white space: all of it at the end of the text, else all but its last character, which may belong
/// to what follows.
size_t space_end(std::string_view text, size_t place, const CharacterClass* classes) {
  size_t last = place;
  size_t end = place;
  while (true) {
    const Character next = character_at(text, end, classes);
    if (next.bytes == 0) return end;
    if (next.kind != CharacterClass::space) return last > place ? last : end;
    last = end;
    end += next.bytes;
  }
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
  return space_end(text, place, kClasses);
}

size_t pretoken_end_of_words(std::string_view text, size_t place, int digits) {
  static const CharacterClass* const kClasses = character_classes();
  if (text[place] == '\'')
    if (const size_t bytes = contraction_bytes_of_any_case(text, place)) return place + bytes;
  const Character first = character_at(text, place, kClasses);
  const size_t behind = place + first.bytes;
  if (first.kind == CharacterClass::letter) return run_end(text, behind, CharacterClass::letter, kClasses);
  if (first.kind == CharacterClass::number) {
    size_t end = behind;
    for (int i = 1; i < digits; ++i) {
      const Character next = character_at(text, end, kClasses);
      if (next.bytes == 0 || next.kind != CharacterClass::number) break;
      end += next.bytes;
    }
    return end;
  }
  const bool line_end = text[place] == '\r' || text[place] == '\n';
  const Character second = character_at(text, behind, kClasses);
  if (!line_end && second.bytes != 0 && second.kind == CharacterClass::letter)
    return run_end(text, behind + second.bytes, CharacterClass::letter, kClasses);
  if (first.kind == CharacterClass::other ||
      (text[place] == ' ' && second.bytes != 0 && second.kind == CharacterClass::other)) {
    size_t end = run_end(text, behind, CharacterClass::other, kClasses);
    while (end < text.size() && (text[end] == '\r' || text[end] == '\n')) ++end;
    return end;
  }
  const size_t run = run_end(text, place, CharacterClass::space, kClasses);
  const size_t last_line_end = text.substr(place, run - place).find_last_of("\r\n");
  return last_line_end != std::string_view::npos ? place + last_line_end + 1 : space_end(text, place, kClasses);
}

size_t digit_run_end(std::string_view text, size_t place, bool& numeric) {
  static const CharacterClass* const kClasses = character_classes();
  const auto is_numeric = [&](const Utf8Step& step) {
    const char32_t c = step.code_point;
    // Rust's is_numeric is of a later Unicode than the expressions of the library.
    return kClasses[c] == CharacterClass::number || (c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6);
  };
  Utf8Step step = decode_utf8(text, place);
  numeric = is_numeric(step);
  do {
    place += step.bytes;
    step = decode_utf8(text, place);
  } while (step.bytes != 0 && is_numeric(step) == numeric);
  return place;
}

}  // namespace cbtm
