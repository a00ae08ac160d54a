#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

/// Many files in a new directory that all grow at once. What is appended waits in memory; when it passes a limit, the
/// longest of it is written, one file after another: one file is open at a time, whatever the limit of the process.
/// For the inside of an AtomicDirectory: files stand there under their names at once. Throws Error naming the file on
/// any failure.
class GrowingFiles {
 public:
  /// `waiting_bytes_max`: of all files together.
  explicit GrowingFiles(size_t waiting_bytes_max = kWaitingBytesMax) : waiting_bytes_max_(waiting_bytes_max) {}

  /// A new, empty file; its number. Directories that are missing are made.
  size_t add(std::filesystem::path path);
  void append(size_t file, std::string_view bytes);
  /// Writes all that waits and makes it durable, in one go for the whole file system `directory` is on. Files that
  /// nothing was appended to are there too. Stops between files if a signal asked to.
  void finish(const std::filesystem::path& directory);

 private:
  static constexpr size_t kWaitingBytesMax = size_t{128} << 20;

  struct File {
    std::filesystem::path path;
    std::string waiting;
    bool begun = false;
  };
  void write_longest();
  void write(File& file);

  size_t waiting_bytes_max_;
  size_t waiting_bytes_ = 0;
  std::vector<File> files_;
};

}  // namespace cbtm
