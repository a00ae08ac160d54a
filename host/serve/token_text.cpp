#include "serve/token_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/utf8.h"

namespace cbtm {

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  const std::string_view bytes = tokenizer.bytes_of(id);
  if (bytes.empty()) return fmt::format("<id:{}>", id);  // an id of the model without a token
  if (find_invalid_utf8(bytes) == std::string_view::npos) return std::string(bytes);
  std::string text = "bytes:";
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<uint8_t>(byte));
  return text;
}

Json token_bytes(const Tokenizer& tokenizer, int32_t id) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.bytes_of(id)) bytes.push_back(static_cast<uint8_t>(byte));
  return bytes;
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

double shown_log_probability(float value) { return std::isinf(value) ? -9999.0 : static_cast<double>(value); }

}  // namespace cbtm
