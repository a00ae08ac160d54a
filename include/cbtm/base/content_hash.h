#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// XXH3-128 over the XXH3-128 hashes of a file's blocks of 16 MiB (docs/formats.md, 'Content hashes'), as 32 hex
/// digits: blocks are hashed on all threads. Throws Error naming the file.
std::string block_hash_hex(const std::filesystem::path& path);

/// {"NAME": {"bytes": n, "hash": "..."}, ...} of these files, named relative to `directory`.
Json content_hashes(const std::filesystem::path& directory, const std::vector<std::string>& names);

/// Compares a file with its entry in `hashes`, made by content_hashes. Throws Error naming the file if its size or its
/// contents differ: "damaged or replaced". Each file is read once in a process, as long as its size and times stay the
/// same. Returns false if there is no entry for it, or if verification is off.
bool verify_content(const std::filesystem::path& directory, const std::string& name, const Json& hashes);

/// --no-verify: files are taken as they are.
void set_content_verification(bool on);
bool content_verification();

}  // namespace cbtm
