#include <unordered_map>

#include "cbtm/base/utf8.h"
#include "tokenizer/tokenizer_data.h"

namespace cbtm {

const std::array<char32_t, 256>& visible_characters() {
  static const std::array<char32_t, 256> kVisible = [] {
    std::array<char32_t, 256> visible{};
    char32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      visible[byte] = itself ? byte : next++;
    }
    return visible;
  }();
  return kVisible;
}

bool bytes_of_visible(std::string_view visible, std::string& bytes) {
  static const std::unordered_map<char32_t, char> kByteOf = [] {
    std::unordered_map<char32_t, char> map;
    for (uint32_t byte = 0; byte < 256; ++byte) map[visible_characters()[byte]] = static_cast<char>(byte);
    return map;
  }();
  bytes.clear();
  for (size_t place = 0; place < visible.size();) {
    const Utf8Step step = decode_utf8(visible, place);
    const auto found = kByteOf.find(step.code_point);
    if (!step.well_formed || found == kByteOf.end()) return false;
    bytes += found->second;
    place += step.bytes;
  }
  return true;
}

std::string visible_of_bytes(std::string_view bytes) {
  std::string visible;
  for (const char byte : bytes) append_utf8(visible_characters()[static_cast<uint8_t>(byte)], visible);
  return visible;
}

}  // namespace cbtm
