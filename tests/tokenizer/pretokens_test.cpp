// The hand-written scanner against the regular expression itself, run by PCRE2.

#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/pretokens.h"

#include <doctest/doctest.h>
#include <pcre2.h>

#include "cbtm/base/philox.h"
#include "cbtm/base/utf8.h"
#include "tokenizer/character_classes.h"

namespace cbtm {
namespace {

class Expression {
 public:
  Expression() {
    // \s with the 25 white-space characters written out: PCRE2's own also holds U+180E.
    const std::string space =
        R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
    const std::string pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" + space + "\\p{L}\\p{N}]+|[" +
                                space + "]+(?![^" + space + "])|[" + space + "]+";
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.c_str()), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error,
                          &offset, nullptr);
    REQUIRE(code_ != nullptr);
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
    match_ = pcre2_match_data_create_from_pattern(code_, nullptr);
  }
  ~Expression() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  size_t end(std::string_view text, size_t place) const {
    const int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), place,
                                  PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, match_, nullptr);
    REQUIRE(found > 0);
    return pcre2_get_ovector_pointer(match_)[1];
  }

 private:
  pcre2_code* code_ = nullptr;
  pcre2_match_data* match_ = nullptr;
};

/// PCRE2 10.42 knows Unicode 14: letters and numbers added since are "other" to it, and left out of the comparison.
bool same_class_in_pcre(char32_t code_point, const Expression& expression) {
  std::string text;
  append_utf8(code_point, text);
  std::string probe = "a" + text;
  const bool letter = expression.end(probe, 0) == probe.size();
  probe = "1" + text;
  const bool number = expression.end(probe, 0) == probe.size();
  const CharacterClass kind = character_classes()[code_point];
  return letter == (kind == CharacterClass::letter) && number == (kind == CharacterClass::number);
}

bool same_pieces(std::string_view text, const Expression& expression) {
  for (size_t place = 0; place < text.size();) {
    const size_t end = pretoken_end(text, place);
    if (end != expression.end(text, place)) return false;
    place = end;
  }
  return true;
}

TEST_CASE("every code point, between all kinds of neighbours") {
  const Expression expression;
  int64_t unknown_to_pcre = 0, wrong = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    if (!same_class_in_pcre(c, expression)) {
      ++unknown_to_pcre;
      continue;
    }
    std::string text = "a ";
    for (const char* after : {"b", " ", "", "1", ".", "'s", "  x"}) {
      append_utf8(c, text);
      text += after;
    }
    if (!same_pieces(text, expression)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(unknown_to_pcre == 9272 + 120);  // added by Unicode 15 and 16
}

void check_random_strings(int64_t count, uint64_t seed) {
  const Expression expression;
  PhiloxStream random(seed, 0);
  const char32_t interesting[] = {' ', ' ',  ' ', '\t', '\n', '\r', 0xA0,  0x3000, 0x180E,  'a',    'Z',
                                  's', 't',  'r', 'e',  'l',  'v',  'm',   'd',    '\'',    '\'',   '0',
                                  '9', 0xBD, '.', '_',  '-',  0xE9, 0x301, 0x4E2D, 0x1F600, 0x200B, 0x85};
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    std::string text;
    const uint64_t length = 1 + random.next_below(14);
    for (uint64_t j = 0; j < length; ++j) append_utf8(interesting[random.next_below(std::size(interesting))], text);
    if (!same_pieces(text, expression)) {
      ++wrong;
      CAPTURE(text);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("random strings") { check_random_strings(200'000, 1); }
TEST_CASE("millions of random strings" * doctest::test_suite("slow")) { check_random_strings(5'000'000, 2); }

}  // namespace
}  // namespace cbtm
