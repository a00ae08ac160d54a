#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace cbtm {

/// A file name, which may be any bytes, as valid UTF-8: bytes that are not UTF-8 become \xE9 and the like, all else
/// stays. Different names stay different: a backslash that would read as such an escape becomes \x5C.
std::string utf8_name(std::string_view name);

/// The same for messages, in one line: control characters are escaped too.
std::string shown_path(const std::filesystem::path& path);

}  // namespace cbtm
