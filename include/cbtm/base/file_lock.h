#pragma once

#include <filesystem>
#include <utility>

namespace cbtm {

/// An advisory lock between processes. It is held while this object lives; the kernel releases it when a process is
/// killed. The file and its parent directories are created. On a file system without locks, nothing is locked.
class FileLock {
 public:
  enum class Wait : bool { no, yes };
  /// exclusive: one holder alone. shared: any number of holders.
  enum class Mode : bool { exclusive, shared };
  /// Wait::yes waits for other holders. Wait::no returns at once, and held() says whether the lock was taken. Throws
  /// Error if the file cannot be created.
  explicit FileLock(const std::filesystem::path& path, Wait wait = Wait::yes, Mode mode = Mode::exclusive);
  ~FileLock();
  FileLock(FileLock&& other) noexcept : file_(std::exchange(other.file_, -1)), held_(other.held_) {}
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// False only if another process holds the lock.
  bool held() const { return held_; }

 private:
  int file_ = -1;
  bool held_ = true;
};

}  // namespace cbtm
