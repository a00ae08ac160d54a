#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace cbtm {

/// 128-bit XXH3 as 32 lower-case hex digits: content hashes of files, routers and settings. Not cryptographic.
std::string hash_hex(std::string_view bytes);

/// hash_hex of the contents of a file, which is read in pieces. Throws Error naming the file if it cannot be read.
std::string hash_file_hex(const std::filesystem::path& path);

/// 64-bit XXH3 with a seed: hashes of documents, for duplicates and for the held-out split.
uint64_t hash64(std::string_view bytes, uint64_t seed = 0);

/// The same hash as hash_hex, of text that comes in pieces.
class StreamingHash {
 public:
  StreamingHash();
  ~StreamingHash();
  StreamingHash(const StreamingHash&) = delete;
  StreamingHash& operator=(const StreamingHash&) = delete;
  void update(const void* data, size_t bytes);
  void update(std::string_view bytes) { update(bytes.data(), bytes.size()); }
  std::string hex() const;

 private:
  void* state_;
};

}  // namespace cbtm
