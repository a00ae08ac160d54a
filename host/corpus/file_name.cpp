#include "cbtm/corpus/file_name.h"

#include <fmt/format.h>

#include <cctype>

#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

bool is_hex(char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; }

bool reads_as_escape(std::string_view text) {
  return text.size() >= 4 && text[0] == '\\' && text[1] == 'x' && is_hex(text[2]) && is_hex(text[3]);
}

std::string escaped(std::string_view name, bool control_characters) {
  std::string out;
  for (size_t place = 0; place < name.size();) {
    const Utf8Step step = decode_utf8(name, place);
    const std::string_view bytes = name.substr(place, step.bytes);
    const bool control = control_characters && step.well_formed && (step.code_point < 0x20 || step.code_point == 0x7F);
    if (!step.well_formed || control || reads_as_escape(name.substr(place))) {
      for (const char byte : bytes) out += fmt::format("\\x{:02X}", static_cast<uint8_t>(byte));
    } else {
      out += bytes;
    }
    place += step.bytes;
  }
  return out;
}

}  // namespace

std::string utf8_name(std::string_view name) { return escaped(name, false); }
std::string shown_path(const std::filesystem::path& path) { return escaped(path.native(), true); }

}  // namespace cbtm
