#include "cbtm/base/foreign_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

/// Whether `bytes` begin with `start`, whatever the case of its letters.
bool begins_like(std::string_view bytes, std::string_view start) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return bytes.size() >= start.size() &&
         std::equal(start.begin(), start.end(), bytes.begin(), [&](char a, char b) { return a == lower(b); });
}

}  // namespace

std::string foreign_content(std::string_view bytes) {
  if (bytes.empty()) return "the file is empty; copy or download it again";
  if (bytes.starts_with("version https://git-lfs") || bytes.starts_with("version https://hawser"))
    return "it is a Git LFS pointer, not the file itself; fetch it with git lfs pull";
  std::string_view text = bytes.substr(0, 512);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.size(), text.find_first_not_of(" \t\r\n")));
  for (const std::string_view start : {"<!doctype html", "<html", "<head", "<?xml"})
    if (begins_like(text, start))
      return "it is a web page (an error or login page saved by a download?), not the file itself; download it again";
  if (bytes.starts_with("\xff\xfe") || bytes.starts_with("\xfe\xff")) return "it is UTF-16 text; save it as UTF-8";
  if (bytes.starts_with("\x1f\x8b")) return "it is compressed with gzip; unpack it with gunzip";
  if (bytes.starts_with("\x28\xb5\x2f\xfd")) return "it is compressed with zstd; unpack it with zstd -d";
  if (bytes.starts_with("\xfd\x37zXZ")) return "it is compressed with xz; unpack it with xz -d";
  if (bytes.substr(0, 4096).find_first_not_of('\0') == std::string_view::npos)
    return "it begins with zeros only (a copy that was never finished?); copy or download it again";
  return "";
}

std::string shown_text(std::string_view text, size_t length_max) {
  std::string out;
  for (size_t place = 0; place < text.size();) {
    if (out.size() >= length_max) return out + "...";
    const Utf8Step step = decode_utf8(text, place);
    if (!step.well_formed || step.code_point < 0x20 || (step.code_point >= 0x7f && step.code_point < 0xa0)) {
      for (uint32_t i = 0; i < step.bytes; ++i)
        out += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(text[place + i])));
    } else {
      out += text.substr(place, step.bytes);
    }
    place += step.bytes;
  }
  return out;
}

}  // namespace cbtm
