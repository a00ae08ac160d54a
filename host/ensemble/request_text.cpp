#include "ensemble/request_text.h"

#include <algorithm>

namespace cbtm {
namespace {

/// How much of `text` can be shown: not what may yet turn out to be the beginning of a stop string.
size_t safe_length(const std::string& text, const std::vector<std::string>& stop) {
  size_t safe = text.size();
  for (const std::string& word : stop)
    for (size_t held = std::min(word.size() - 1, text.size()); held > 0; --held)
      if (text.compare(text.size() - held, held, word, 0, held) == 0) {
        safe = std::min(safe, text.size() - held);
        break;
      }
  return safe;
}

}  // namespace

RequestText::RequestText(const Tokenizer* tokenizer, std::vector<std::string> stop) : stop_(std::move(stop)) {
  std::erase(stop_, "");
  if (tokenizer != nullptr) decoder_.emplace(*tokenizer, /*skip_special=*/true);
}

bool RequestText::push(int32_t id) {
  if (!decoder_) return false;
  text_ += decoder_->push(id);
  size_t first = std::string::npos;
  for (const std::string& word : stop_) first = std::min(first, text_.find(word));
  if (first == std::string::npos) return false;
  text_.resize(first);
  ended_ = true;
  return true;
}

void RequestText::finish() {
  if (decoder_ && !ended_) text_ += decoder_->finish();
  ended_ = true;
}

std::string RequestText::take_new() {
  const size_t until = ended_ ? text_.size() : safe_length(text_, stop_);
  if (until <= shown_) return {};
  std::string piece = text_.substr(shown_, until - shown_);
  shown_ = until;
  return piece;
}

}  // namespace cbtm
