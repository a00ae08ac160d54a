#include "corpus/json_line.h"

#include <fmt/format.h>

#include "cbtm/base/utf8.h"
#include "cbtm/corpus/file_name.h"

namespace cbtm {
namespace {

constexpr int kDepthMax = 512;

/// The names at an object's top level, for a message: "id, body, ...".
class KeyList {
 public:
  void add(std::string_view key) {
    constexpr int kNamed = 8;
    constexpr size_t kBytes = 40;
    if (++count_ > kNamed + 1) return;
    if (count_ > 1) names_ += ", ";
    names_ += count_ > kNamed || key.size() > kBytes ? "..." : shown_path(key);
  }
  const std::string& names() const { return names_; }

 private:
  int count_ = 0;
  std::string names_;
};

std::string_view type_name(char first) {
  switch (first) {
    case '"': return "a string";
    case '{': return "an object";
    case '[': return "a list";
    case 't':
    case 'f': return "true or false";
    case 'n': return "null";
    default: return "a number";
  }
}

/// A strict JSON reader (RFC 8259) that keeps nothing but what it is asked for. Methods return false at an error, which
/// problem() then explains.
class LineParser {
 public:
  /// `keys`: gets the names at the top level, if it is there.
  explicit LineParser(std::string_view line, KeyList* keys = nullptr) : line_(line), keys_(keys) {}

  bool object(std::string_view text_field, std::string_view domain_field, JsonLineFields& fields) {
    skip_space();
    if (peek() != '{') return wrong_kind();
    take('{');
    skip_space();
    if (take('}')) return at_end();
    std::string key;
    do {
      if (!name(&key)) return false;
      if (keys_ != nullptr) keys_->add(key);
      if (key == text_field) {
        text_type_ = type_name(peek());
        fields.has_text = peek() == '"';
        if (fields.has_text ? !string(&fields.text) : !value(0)) return false;
      } else if (key == "id") {
        if (!name_or_number(fields.id)) return false;
        if (key == domain_field) fields.domain = fields.id;
      } else if (!domain_field.empty() && key == domain_field) {
        if (!name_or_number(fields.domain)) return false;
      } else if (!value(0)) {
        return false;
      }
      skip_space();
    } while (take(','));
    return close('}') && at_end();
  }

  /// What is wrong, and where.
  std::string problem() const {
    return cut_off() ? "JSON that ends early" : fmt::format("{} at byte {}", problem_, problem_place_ + 1);
  }
  /// Nothing is wrong but that the text ends.
  bool cut_off() const { return !problem_.empty() && problem_place_ >= line_.size(); }
  /// What the text field holds ("a number"), "" if there is no such field.
  std::string_view text_type() const { return text_type_; }

 private:
  bool wrong(std::string_view what) {
    if (problem_.empty()) {
      problem_ = what;
      problem_place_ = place_;
    }
    return false;
  }
  /// The line does not begin with {.
  bool wrong_kind() {
    if (peek() == '[') return wrong("not a JSON object but an array");
    const size_t begin = place_;
    const bool is_value = place_ < line_.size() && value(0) && at_end();
    place_ = begin;
    problem_.clear();
    return wrong(is_value ? fmt::format("not a JSON object but {}", type_name(peek())) : "not a JSON object");
  }

  /// A value: a string, or a number as it is written; "" for any other.
  bool name_or_number(std::string& out) {
    if (peek() == '"') return string(&out);
    const size_t begin = place_;
    if (!value(0)) return false;
    const char first = line_[begin];
    out = first == '-' || (first >= '0' && first <= '9') ? std::string(line_.substr(begin, place_ - begin)) : "";
    return true;
  }

  char peek() const { return place_ < line_.size() ? line_[place_] : '\0'; }
  bool take(char expected) {
    if (place_ >= line_.size() || line_[place_] != expected) return false;
    ++place_;
    return true;
  }
  bool take_word(std::string_view word) {
    const std::string_view rest = line_.substr(place_, word.size());
    if (rest == word || word.starts_with(rest)) {
      place_ += rest.size();
      return rest == word || wrong("a word that ends early");
    }
    return wrong("not JSON");
  }
  void skip_space() {
    while (place_ < line_.size() &&
           (line_[place_] == ' ' || line_[place_] == '\t' || line_[place_] == '\n' || line_[place_] == '\r'))
      ++place_;
  }
  bool at_end() {
    skip_space();
    if (place_ == line_.size()) return true;
    return wrong(peek() == '{' ? "not JSON lines: a second object on the line," : "more text after the JSON object");
  }
  bool close(char bracket) {
    return take(bracket) ||
           wrong(bracket == '}' ? "not JSON: neither a comma nor }" : "not JSON: neither a comma nor ]");
  }
  /// "name" : with blanks around.
  bool name(std::string* out) {
    skip_space();
    if (peek() != '"') return wrong(peek() == '\'' ? "not JSON: single quotes" : "not JSON: no name in double quotes");
    if (!string(out)) return false;
    skip_space();
    if (!take(':')) return wrong("not JSON: no colon after a name");
    skip_space();
    return true;
  }

  bool hex4(uint32_t& code) {
    code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return wrong("not JSON: \\u without four hex digits");
      ++place_;
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return true;
  }

  /// Half of a character, as text cut by UTF-16 units has it. Python's json lets it pass, but it has no UTF-8.
  bool lone_surrogate(size_t escape_begin, uint32_t code) {
    place_ = escape_begin;
    return wrong(fmt::format("a lone surrogate \\u{:04x}, which is no character,", code));
  }

  /// The four digits behind \u, and the second half of a surrogate pair.
  bool unicode_escape(uint32_t& code) {
    const size_t escape_begin = place_ - 2;
    if (!hex4(code)) return false;
    if (code >= 0xDC00 && code <= 0xDFFF) return lone_surrogate(escape_begin, code);
    if (code < 0xD800 || code > 0xDBFF) return true;
    const uint32_t high = code;
    uint32_t low = 0;
    if (place_ >= line_.size()) return wrong("a string that ends early");
    if (!take('\\')) return lone_surrogate(escape_begin, high);
    if (place_ >= line_.size()) return wrong("a string that ends early");
    if (!take('u')) return lone_surrogate(escape_begin, high);
    if (!hex4(low)) return false;
    if (low < 0xDC00 || low > 0xDFFF) return lone_surrogate(escape_begin, high);
    code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    return true;
  }

  bool escape(std::string* out) {
    if (place_ >= line_.size()) return wrong("a string that ends early");
    const char kind = line_[place_++];
    uint32_t character = 0;
    switch (kind) {
      case '"':
      case '\\':
      case '/': character = static_cast<uint32_t>(kind); break;
      case 'b': character = '\b'; break;
      case 'f': character = '\f'; break;
      case 'n': character = '\n'; break;
      case 'r': character = '\r'; break;
      case 't': character = '\t'; break;
      case 'u':
        if (!unicode_escape(character)) return false;
        break;
      default: --place_; return wrong("not JSON: an unknown escape");
    }
    if (out != nullptr) append_utf8(character, *out);
    return true;
  }

  bool string(std::string* out) {
    take('"');
    if (out != nullptr) out->clear();
    while (true) {
      const size_t begin = place_;
      while (place_ < line_.size() && line_[place_] != '"' && line_[place_] != '\\' &&
             static_cast<uint8_t>(line_[place_]) >= 0x20)
        ++place_;
      if (out != nullptr) out->append(line_.substr(begin, place_ - begin));
      if (place_ >= line_.size()) return wrong("a string that ends early");
      if (take('"')) return true;
      if (!take('\\')) return wrong("not JSON: a control character within a string");
      if (!escape(out)) return false;
    }
  }

  bool digits() {
    const size_t begin = place_;
    while (place_ < line_.size() && line_[place_] >= '0' && line_[place_] <= '9') ++place_;
    return place_ > begin || wrong("not JSON: a number without digits");
  }
  bool number() {
    const size_t begin = place_;
    take('-');
    const std::string_view rest = line_.substr(place_);
    for (const std::string_view word : {"NaN", "Infinity", "nan", "inf"}) {
      if (!rest.starts_with(word)) continue;
      place_ = begin;
      return wrong(fmt::format("{}, which is not JSON,", word));
    }
    const char first = peek();
    if (place_ < line_.size() && (first < '0' || first > '9')) {
      if (rest.starts_with("None") || rest.starts_with("True") || rest.starts_with("False"))
        return wrong("not JSON: a word of Python");
      return wrong("not JSON: no value");
    }
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (peek() == 'e' || peek() == 'E') {
      ++place_;
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    return true;
  }

  bool value(int depth) {
    if (depth > kDepthMax) return wrong(fmt::format("brackets nested more than {} deep", kDepthMax));
    switch (peek()) {
      case '"': return string(nullptr);
      case '{': return members(depth);
      case '[': return elements(depth);
      case 't': return take_word("true");
      case 'f': return take_word("false");
      case 'n': return line_.substr(place_).starts_with("nan") ? number() : take_word("null");
      default: return number();
    }
  }
  bool members(int depth) {
    take('{');
    skip_space();
    if (take('}')) return true;
    do {
      if (!name(nullptr) || !value(depth + 1)) return false;
      skip_space();
    } while (take(','));
    return close('}');
  }
  bool elements(int depth) {
    take('[');
    skip_space();
    if (take(']')) return true;
    do {
      skip_space();
      if (!value(depth + 1)) return false;
      skip_space();
    } while (take(','));
    return close(']');
  }

  std::string_view line_;
  size_t place_ = 0;
  std::string problem_;
  size_t problem_place_ = 0;
  std::string_view text_type_;
  KeyList* keys_;
};

}  // namespace

std::string parse_json_line(std::string_view line, std::string_view text_field, JsonLineFields& fields,
                            std::string_view domain_field) {
  fields = {};
  if (const size_t invalid = find_invalid_utf8(line); invalid != std::string_view::npos)
    return fmt::format("not UTF-8 at byte {}", invalid + 1);
  LineParser parser(line);
  if (!parser.object(text_field, domain_field, fields)) return parser.problem();
  if (fields.has_text) return "";
  if (!parser.text_type().empty())
    return fmt::format("the text field '{}' is {}, not a string", shown_path(text_field), parser.text_type());
  KeyList keys;
  LineParser(line, &keys).object(text_field, {}, fields);
  return fmt::format("no text field '{}'{}", shown_path(text_field),
                     keys.names().empty() ? "" : fmt::format(" (there are: {})", keys.names()));
}

JsonShape json_shape(std::string_view text, std::string_view text_field, bool& has_text) {
  JsonLineFields fields;
  LineParser parser(text);
  const bool whole = parser.object(text_field, {}, fields);
  has_text = fields.has_text;
  if (whole) return JsonShape::object;
  return parser.cut_off() ? JsonShape::beginning : JsonShape::other;
}

}  // namespace cbtm
