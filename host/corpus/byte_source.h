#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace cbtm {

/// Bytes of a file, unpacked if they are gzip (all members) or zstd (all frames, windows up to 2 GiB), told by their
/// first bytes.
class ByteSource {
 public:
  /// "-" is standard input. `stage`: what a signal that comes while a pipe is waited for stops. Throws Error naming the
  /// file if it cannot be opened.
  static std::unique_ptr<ByteSource> open(const std::filesystem::path& path, const std::string& stage);
  virtual ~ByteSource() = default;
  /// Fills some of `out`; 0 at the end, also when reading fails or compressed data ends early or is damaged: damage().
  virtual size_t read(std::span<char> out) = 0;
  /// What is wrong with the data, "" if nothing.
  virtual std::string damage() const = 0;
  /// What was passed over at the end without being damage, "" if nothing.
  virtual std::string remark() const { return ""; }
  /// "gzip", "zstd", or "".
  virtual std::string packing() const { return ""; }
  /// Bytes of the file used so far.
  virtual int64_t bytes_taken() const = 0;
  /// Of these, where there is damage: those that a check sum at their end did not confirm.
  virtual int64_t bytes_doubtful() const { return 0; }
};

}  // namespace cbtm
