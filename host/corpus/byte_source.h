#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace cbtm {

/// Bytes of a file, unpacked if they are gzip (all members) or zstd (all frames), told by their first bytes.
class ByteSource {
 public:
  /// "-" is standard input. Throws Error naming the file if it cannot be opened.
  static std::unique_ptr<ByteSource> open(const std::filesystem::path& path);
  virtual ~ByteSource() = default;
  /// Fills some of `out`; 0 at the end, also when compressed data ends early or is damaged: see damage().
  virtual size_t read(std::span<char> out) = 0;
  /// What is wrong with the compressed data, "" if nothing.
  virtual std::string damage() const = 0;
  /// Bytes taken from the file so far.
  virtual int64_t bytes_taken() const = 0;
};

}  // namespace cbtm
