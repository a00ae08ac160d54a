#pragma once

#include <filesystem>

namespace cbtm {

/// An advisory lock between processes, held while this object lives; a killed process lets go of it. Creates the file
/// and its parent directories. On a file system that knows no locks it holds nothing.
class FileLock {
 public:
  enum class Wait : bool { no, yes };
  /// Waits for other holders, or with Wait::no leaves it to held() to say that there is one. Throws Error if the file
  /// cannot be made.
  explicit FileLock(const std::filesystem::path& path, Wait wait = Wait::yes);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// False only if another process holds it.
  bool held() const { return held_; }

 private:
  int file_ = -1;
  bool held_ = true;
};

}  // namespace cbtm
