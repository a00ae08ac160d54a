#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// XXH3-128 over the XXH3-128 hashes of a file's blocks of 16 MiB, as 32 hex digits (docs/formats.md, 'Content
/// hashes'). Blocks are hashed on all threads. Throws Error naming the file.
std::string block_hash_hex(const std::filesystem::path& path);

/// {"NAME": {"bytes": n, "hash": "..."}, ...}, one entry per file. Names are relative to `directory`.
Json content_hashes(const std::filesystem::path& directory, const std::vector<std::string>& names);

/// Compares a file with its entry in `hashes` (made by content_hashes). Throws Error naming the file if size or
/// contents differ: "damaged or replaced". Each file is read once per process, as long as its size and times stay the
/// same. Returns false if there is no entry, or if verification is off.
bool verify_content(const std::filesystem::path& directory, const std::string& name, const Json& hashes);

/// False for --no-verify: contents are not compared.
void set_content_verification(bool on);
bool content_verification();

}  // namespace cbtm
