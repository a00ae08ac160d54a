#pragma once

#include <string>
#include <string_view>

namespace cbtm {

/// Bytes from a file's beginning that decide what it is.
inline constexpr size_t kFormatBytes = 512;

/// Tells by the first bytes (kFormatBytes of them, fewer only of a shorter file) a format that is not read: "bzip2,
/// which is not read; unpack it first". "" for what may be text.
std::string unread_format(std::string_view first_bytes);

/// The byte order mark of UTF-8 at the beginning: 3 bytes, or 0.
size_t utf8_mark_bytes(std::string_view first_bytes);

}  // namespace cbtm
