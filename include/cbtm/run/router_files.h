#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace cbtm {

// A router's directory as files, whatever its kind (docs/formats.md, 'Router').

/// The paths of its files, relative to it, sorted.
std::vector<std::string> router_files(const std::filesystem::path& directory);

/// Whether `copy` holds the router of `original`. Their router.json may differ: a temperature may have been tuned
/// since.
bool same_router(const std::filesystem::path& copy, const std::filesystem::path& original);

/// Puts a copy of the router there, whole or not at all.
void copy_router(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace cbtm
