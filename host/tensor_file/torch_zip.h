#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace cbtm {

/// The members of a zip archive as PyTorch writes it (stored, never compressed), names without the top folder.
/// Everything is bounds-checked and every checksum verified. Throws Error naming `where`.
std::map<std::string, std::string_view> read_zip_members(std::string_view file, const std::string& where);

}  // namespace cbtm
