#pragma once

#include <filesystem>
#include <utility>

namespace cbtm {

/// An advisory lock between processes, held while this object lives; a killed process lets go of it. Creates the file
/// and its parent directories. On a file system that knows no locks it holds nothing.
class FileLock {
 public:
  enum class Wait : bool { no, yes };
  /// One holder alone, or any number of holders that share it.
  enum class Mode : bool { exclusive, shared };
  /// Waits for other holders, or with Wait::no leaves it to held() to say that there is one. Throws Error if the file
  /// cannot be made.
  explicit FileLock(const std::filesystem::path& path, Wait wait = Wait::yes, Mode mode = Mode::exclusive);
  ~FileLock();
  FileLock(FileLock&& other) noexcept : file_(std::exchange(other.file_, -1)), held_(other.held_) {}
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// False only if another process holds it.
  bool held() const { return held_; }

 private:
  int file_ = -1;
  bool held_ = true;
};

}  // namespace cbtm
