#include "corpus/json_line.h"

#include <cstdint>

#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

constexpr int kDepthMax = 512;

/// A strict JSON reader (RFC 8259) that keeps nothing but what it is asked for. Methods return false at an error.
class LineParser {
 public:
  explicit LineParser(std::string_view line) : line_(line) {}

  bool object(std::string_view text_field, JsonLineFields& fields) {
    skip_space();
    if (!take('{')) return false;
    skip_space();
    if (take('}')) return at_end();
    std::string key;
    do {
      skip_space();
      if (!string(&key)) return false;
      skip_space();
      if (!take(':')) return false;
      skip_space();
      const size_t begin = place_;
      if (key == text_field) {
        fields.has_text = peek() == '"';
        if (fields.has_text ? !string(&fields.text) : !value(0)) return false;
      } else if (key == "id") {
        if (peek() == '"') {
          if (!string(&fields.id)) return false;
        } else {
          if (!value(0)) return false;
          const char first = line_[begin];
          fields.id =
              first == '-' || (first >= '0' && first <= '9') ? std::string(line_.substr(begin, place_ - begin)) : "";
        }
      } else if (!value(0)) {
        return false;
      }
      skip_space();
    } while (take(','));
    return take('}') && at_end();
  }

 private:
  char peek() const { return place_ < line_.size() ? line_[place_] : '\0'; }
  bool take(char expected) {
    if (place_ >= line_.size() || line_[place_] != expected) return false;
    ++place_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (line_.substr(place_, word.size()) != word) return false;
    place_ += word.size();
    return true;
  }
  void skip_space() {
    while (place_ < line_.size() &&
           (line_[place_] == ' ' || line_[place_] == '\t' || line_[place_] == '\n' || line_[place_] == '\r'))
      ++place_;
  }
  bool at_end() {
    skip_space();
    return place_ == line_.size();
  }

  bool hex4(uint32_t& code) {
    code = 0;
    for (int i = 0; i < 4; ++i) {
      if (place_ >= line_.size()) return false;
      const char c = line_[place_++];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return true;
  }

  bool escape(std::string* out) {
    if (place_ >= line_.size()) return false;
    const char kind = line_[place_++];
    char32_t character = 0;
    switch (kind) {
      case '"':
      case '\\':
      case '/': character = static_cast<char32_t>(kind); break;
      case 'b': character = '\b'; break;
      case 'f': character = '\f'; break;
      case 'n': character = '\n'; break;
      case 'r': character = '\r'; break;
      case 't': character = '\t'; break;
      case 'u': {
        uint32_t code = 0;
        if (!hex4(code)) return false;
        if (code >= 0xD800 && code <= 0xDBFF) {
          uint32_t low = 0;
          if (!take('\\') || !take('u') || !hex4(low) || low < 0xDC00 || low > 0xDFFF) return false;
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code <= 0xDFFF) {
          return false;
        }
        character = code;
        break;
      }
      default: return false;
    }
    if (out != nullptr) append_utf8(character, *out);
    return true;
  }

  bool string(std::string* out) {
    if (!take('"')) return false;
    if (out != nullptr) out->clear();
    while (place_ < line_.size()) {
      const size_t begin = place_;
      while (place_ < line_.size() && line_[place_] != '"' && line_[place_] != '\\' &&
             static_cast<uint8_t>(line_[place_]) >= 0x20)
        ++place_;
      if (out != nullptr) out->append(line_.substr(begin, place_ - begin));
      if (place_ >= line_.size()) return false;
      if (take('"')) return true;
      if (!take('\\') || !escape(out)) return false;
    }
    return false;
  }

  bool digits() {
    const size_t begin = place_;
    while (place_ < line_.size() && line_[place_] >= '0' && line_[place_] <= '9') ++place_;
    return place_ > begin;
  }
  bool number() {
    take('-');
    if (take('0')) {
    } else if (!digits()) {
      return false;
    }
    if (take('.') && !digits()) return false;
    if (peek() == 'e' || peek() == 'E') {
      ++place_;
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    return true;
  }

  bool value(int depth) {
    if (depth > kDepthMax) return false;
    switch (peek()) {
      case '"': return string(nullptr);
      case '{': return members(depth);
      case '[': return elements(depth);
      case 't': return take_word("true");
      case 'f': return take_word("false");
      case 'n': return take_word("null");
      default: return number();
    }
  }
  bool members(int depth) {
    take('{');
    skip_space();
    if (take('}')) return true;
    do {
      skip_space();
      if (!string(nullptr)) return false;
      skip_space();
      if (!take(':')) return false;
      skip_space();
      if (!value(depth + 1)) return false;
      skip_space();
    } while (take(','));
    return take('}');
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
    return take(']');
  }

  std::string_view line_;
  size_t place_ = 0;
};

}  // namespace

std::string parse_json_line(std::string_view line, std::string_view text_field, JsonLineFields& fields) {
  fields = {};
  if (find_invalid_utf8(line) != std::string_view::npos) return "not UTF-8";
  if (!LineParser(line).object(text_field, fields)) return "not a JSON object";
  if (!fields.has_text) return "no text field";
  return "";
}

}  // namespace cbtm
