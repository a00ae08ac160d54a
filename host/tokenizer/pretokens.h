#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm {

/// How text is cut into pieces that are encoded one by one.
struct Pretokenization {
  /// Numeric characters before anything else: as the pattern says, each alone, or each run of them alone.
  enum class Digits : uint8_t { as_pattern, each, runs };
  enum class Pattern : uint8_t {
    gpt2,    ///< pretoken_end
    qwen2,   ///< pretoken_end_of_words, digits one by one
    llama3,  ///< pretoken_end_of_words, up to three digits
    none     ///< one piece
  };
  Digits digits = Digits::as_pattern;
  Pattern pattern = Pattern::gpt2;
  bool add_prefix_space = false;  ///< a space in front of a text that does not begin with one

  bool operator==(const Pretokenization&) const = default;
};

/// End of the piece that starts at `place` (< text.size()) when `text`, valid UTF-8, is cut by GPT-2's expression
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// (docs/tokenizer.md, 'Pieces'). A hand-written scanner; the tests hold it to the expression itself.
size_t pretoken_end(std::string_view text, size_t place);

/// The same for the expression of Qwen 2 (`digits` 1) and Llama 3 (`digits` 3), in two parts:
///   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
///   ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t pretoken_end_of_words(std::string_view text, size_t place, int digits);

/// End of the run that starts at `place`: of numeric characters (`numeric` becomes true), or of others.
size_t digit_run_end(std::string_view text, size_t place, bool& numeric);

/// Calls body(piece) for the pieces of `text`, which is not empty.
template <typename Body>
void for_each_pretoken(const Pretokenization& how, std::string_view text, const Body& body) {
  const auto by_pattern = [&](std::string_view part) {
    std::string with_space;
    if (how.add_prefix_space && !part.starts_with(' ')) {
      with_space = " " + std::string(part);
      part = with_space;
    }
    if (how.pattern == Pretokenization::Pattern::none) return body(part);
    for (size_t place = 0; place < part.size();) {
      const size_t end =
          how.pattern == Pretokenization::Pattern::gpt2
              ? pretoken_end(part, place)
              : pretoken_end_of_words(part, place, how.pattern == Pretokenization::Pattern::llama3 ? 3 : 1);
      body(part.substr(place, end - place));
      place = end;
    }
  };
  if (how.digits == Pretokenization::Digits::as_pattern) return by_pattern(text);
  for (size_t place = 0; place < text.size();) {
    bool numeric = false;
    const size_t end = digit_run_end(text, place, numeric);
    if (!numeric || how.digits == Pretokenization::Digits::runs) {
      by_pattern(text.substr(place, end - place));
      place = end;
    }
    while (place < end) {
      size_t next = place + 1;
      while (next < end && (static_cast<uint8_t>(text[next]) & 0xC0) == 0x80) ++next;
      by_pattern(text.substr(place, next - place));
      place = next;
    }
  }
}

}  // namespace cbtm
