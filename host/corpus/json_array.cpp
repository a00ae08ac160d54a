#include "corpus/json_array.h"

namespace cbtm {

bool JsonElementScanner::scan(std::string_view text, size_t& place) {
  for (; place < text.size(); ++place) {
    const char c = text[place];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
      continue;
    }
    const bool closes = c == '}' || c == ']';
    // A value without brackets ends before the comma or bracket that follows it.
    if (depth_ == 0 && begun_ && (c == ',' || closes)) return true;
    if (c == '"') in_string_ = true;
    if (c == '{' || c == '[') ++depth_;
    if (closes && depth_ > 0 && --depth_ == 0) {
      ++place;
      return true;
    }
    begun_ = true;
  }
  return false;
}

/// Drops blanks; false if nothing follows them.
bool JsonArrayReader::skip_to_next() {
  while (true) {
    const std::string_view held = text_.held();
    const size_t begin = held.find_first_not_of(" \t\r\n");
    text_.drop(begin == std::string_view::npos ? held.size() : begin);
    if (begin != std::string_view::npos) return true;
    if (!text_.more()) return false;
  }
}

Piece JsonArrayReader::end(const char* problem) {
  ended_ = true;
  if (text_.damage().empty()) problem_ = problem;  // else the damage is what is wrong
  return Piece::none;
}

Piece JsonArrayReader::next(std::string_view& element) {
  if (ended_) return Piece::none;
  if (!skip_to_next()) return end("the JSON array ends early");
  const char first = text_.held().front();
  if (!opened_) {
    opened_ = true;  // file_layout has seen the bracket
    text_.drop(1);
    return next(element);
  }
  if (first == ']') {
    text_.drop(1);
    const bool more = skip_to_next();
    return end(more ? "more text after the JSON array" : "");
  }
  if (count_ > 0) {
    if (first != ',') return end("the JSON array is broken: neither a comma nor ] after an element");
    text_.drop(1);
    if (!skip_to_next()) return end("the JSON array ends early");
    if (text_.held().front() == ']' || text_.held().front() == ',')
      return end("the JSON array is broken: a comma without an element");
  }
  JsonElementScanner scanner;
  size_t place = 0;
  bool too_long = false;
  while (!scanner.scan(text_.held(), place)) {
    if (place > limit_ || too_long) {
      too_long = true;
      text_.drop(place);
      place = 0;
    }
    if (!text_.more()) return end("the JSON array ends early");
  }
  ++count_;
  element = text_.held().substr(0, place);
  if (place > limit_) too_long = true;
  text_.drop(place);  // the bytes stay until more are read
  return too_long ? Piece::too_long : Piece::piece;
}

}  // namespace cbtm
