#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// The text of a request as its tokens come: ends before the first stop string, and shows only what cannot become part
/// of one any more.
class RequestText {
 public:
  /// Without a tokenizer the text stays empty.
  RequestText(const Tokenizer* tokenizer, std::vector<std::string> stop);

  /// Whether a stop string has come with this token; the text is then cut before it.
  bool push(int32_t id);
  /// No token comes any more.
  void finish();
  /// What can be shown beyond what was shown before.
  std::string take_new();
  const std::string& text() const { return text_; }

 private:
  std::optional<StreamingDecoder> decoder_;
  std::vector<std::string> stop_;
  std::string text_;
  bool ended_ = false;
  size_t shown_ = 0;
};

}  // namespace cbtm
