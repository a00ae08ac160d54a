#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace cbtm {

/// A file written beside its place ("name.partial-PID") and renamed over it by commit(), after fsync. Without commit()
/// the destructor removes what was written and the old file stays. Throws Error naming the file on any failure
/// (unwritable directory, full disk). Creates missing parent directories. A link is followed; what is no regular file
/// (/dev/stdout, a pipe) is written as it stands.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes already written (for headers known only at the end).
  void write_at(uint64_t offset, const void* data, size_t bytes);
  uint64_t bytes_written() const { return written_ + buffer_.size(); }
  /// Flushes, syncs and renames. Nothing may be written afterwards.
  void commit();

 private:
  void flush();

  std::filesystem::path path_;
  std::filesystem::path partial_path_;  ///< path_ itself if that is no regular file
  int file_ = -1;
  uint64_t written_ = 0;
  std::string buffer_;
};

/// A directory filled beside its place and renamed over it by commit(): files are created in path() by the caller.
/// A directory that stood there is moved aside first and removed after the rename, so that a reader sees the old one
/// or the new one, whole. Without commit() the destructor removes the partial directory.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& path() const { return partial_path_; }
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path partial_path_;
  bool committed_ = false;
};

/// Creates a directory and what is missing above it; "" is the current one. Throws Error naming it.
void make_directories(const std::filesystem::path& path);

/// Throws Error naming the file if an AtomicFile could not be made there, as far as that can be known beforehand: for
/// results that a long work ends with.
void check_writable(const std::filesystem::path& path);

void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// True of the names that unfinished or set-aside outputs have: NAME.partial-PID and NAME.previous. Readers of a
/// directory pass over them.
bool is_unfinished_output(const std::filesystem::path& path);

/// Finishes or undoes what a killed AtomicDirectory::commit left: if `path` is missing and its set-aside old version
/// exists, puts that back. Call before reading a directory that is written with AtomicDirectory.
void recover_directory(const std::filesystem::path& path);

}  // namespace cbtm
