#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "corpus/file_text.h"

namespace cbtm {

/// Finds where a JSON value ends, in text that comes piece by piece. It looks at brackets and strings only; whether the
/// value is right is for a parser to say.
class JsonElementScanner {
 public:
  /// Goes on at text[place], where the value begins or where the last call ended. True when it has ended, before
  /// text[place]; false when the text is used up.
  bool scan(std::string_view text, size_t& place);

 private:
  size_t depth_ = 0;
  bool begun_ = false;
  bool in_string_ = false;
  bool escaped_ = false;
};

/// Gives the elements of an array that is a whole file, one by one.
class JsonArrayReader {
 public:
  explicit JsonArrayReader(FileText& text, size_t element_bytes_max) : text_(text), limit_(element_bytes_max) {}
  /// The next element, valid until the next call. `none` at the end, and when the array itself is broken: see
  /// problem().
  Piece next(std::string_view& element);
  /// Elements given so far, the ones too long included.
  int64_t count() const { return count_; }
  /// What is wrong with the array, "" if nothing.
  const std::string& problem() const { return problem_; }

 private:
  bool skip_to_next();
  Piece end(const char* problem);

  FileText& text_;
  size_t limit_;
  int64_t count_ = 0;
  bool opened_ = false;
  bool ended_ = false;
  std::string problem_;
};

}  // namespace cbtm
