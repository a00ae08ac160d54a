#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace cbtm {

/// A file name, which may be any bytes, as valid UTF-8. Bytes that are not UTF-8 become escapes like \xE9; all others
/// stay. Different names stay different: a backslash that would look like the start of an escape becomes \x5C.
std::string utf8_name(std::string_view name);

/// The same for messages, on one line: control characters are escaped too.
std::string shown_path(const std::filesystem::path& path);

}  // namespace cbtm
