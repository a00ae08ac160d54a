#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cbtm/base/json.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// A token as replies show it: its text, or "bytes:\xe2\x80" if its bytes are no whole characters. Two tokens with
/// different bytes never look the same.
std::string token_text(const Tokenizer& tokenizer, int32_t id);
/// Its bytes as a list of numbers.
Json token_bytes(const Tokenizer& tokenizer, int32_t id);
/// The number of characters of a text in UTF-8.
int64_t count_characters(std::string_view text);
/// A log-probability as replies show it: JSON has no infinity, so -infinity is -9999.
double shown_log_probability(float value);

}  // namespace cbtm
