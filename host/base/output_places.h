#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace cbtm {

/// "out/" as "out": the name that outputs are put beside.
std::filesystem::path without_trailing_slash(std::filesystem::path path);

/// NAME.SUFFIX in the same directory.
std::filesystem::path beside(const std::filesystem::path& path, std::string_view suffix);

/// A name beside `path` that no other writer uses, on this machine or another one: NAME.partial-HOST-PID-N.
std::filesystem::path new_partial_path(const std::filesystem::path& path);

/// Removes the partial outputs of this one path whose writers are gone.
void remove_abandoned_partials_of(const std::filesystem::path& path);

/// Makes the names in a directory durable, where the file system can.
void sync_directory(const std::filesystem::path& directory);

/// Throws Error naming both.
void rename_or_fail(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace cbtm
