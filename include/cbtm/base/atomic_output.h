#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace cbtm {

/// A file written beside its place ("name.partial-HOST-PID-N") and renamed over it by commit(), after fsync. Without
/// commit() the destructor removes what was written and the old file stays. Throws Error naming the file on any failure
/// (unwritable directory, full disk). Creates missing parent directories. A link is followed. A device, a pipe and an
/// open descriptor of this process (/dev/stdout, /dev/fd/3, /proc/self/fd/3) are written to as they stand, at their own
/// offset, whatever they lead to. What dead writers of the same file have left beside it is removed.
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
  std::filesystem::path partial_path_;  ///< empty if path_ is written to as it stands
  int file_ = -1;
  uint64_t written_ = 0;
  std::string buffer_;
};

/// A directory filled beside its place and put there whole by commit(): files are created in path() by the caller.
/// commit() adds a list of them, kOutputList. Only a directory that holds such a list and nothing that is not on it may
/// be replaced (check_replaceable): a reader sees the old one or the new one, whole. Without commit() the destructor
/// removes the partial directory.
class AtomicDirectory {
 public:
  /// Throws Error as check_replaceable does, before anything is written.
  explicit AtomicDirectory(std::filesystem::path final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& path() const { return partial_path_; }
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path partial_path_;
  int lock_ = -1;  ///< held on the partial directory: its writer lives
  bool committed_ = false;
};

/// The file that AtomicDirectory puts into what it makes: a first line, then the path of each file in the directory.
inline constexpr const char* kOutputList = ".cbtm-files";

/// Throws Error, naming what stands there, unless an AtomicDirectory may be put at this place: nothing or an empty
/// directory is there, or a directory that cbtm made and to which nothing was added. A link to a directory is followed.
/// Commands call this for their outputs before any work.
void check_replaceable(const std::filesystem::path& path);

/// Whether cbtm made what stands there, even if something was added to it since.
bool is_output_directory(const std::filesystem::path& path);

/// Removes a directory that cbtm made. Files that somebody added to it stay where they are, and are named in a warning.
/// Nothing happens if it is not there.
void remove_output_directory(const std::filesystem::path& path);

/// Creates a directory and what is missing above it; "" is the current one. Throws Error naming it.
void make_directories(const std::filesystem::path& path);

/// What a single output file holds, told from a file's own bytes.
enum class OutputKind : uint8_t {
  json,           ///< one JSON value
  json_result,    ///< what --json writes: begins with "_made_by": "cbtm ..."
  id_lists,       ///< what tokenizer encode writes: a list of ids on each line
  token_details,  ///< what --token-log-probs writes
  decoded_lines,  ///< what tokenizer decode writes: {"text":"..."} without a space
  logits,         ///< a safetensors file with the tensor "logits"
  html            ///< a report
};

/// Throws Error naming the file if an AtomicFile could not be made there, as far as that can be known beforehand, or if
/// a file stands there that is not of this kind and so was not written by the command that is about to replace it.
void check_writable(const std::filesystem::path& path, OutputKind kind);

void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// True of the names that unfinished or set-aside outputs have: NAME.partial-... and NAME.previous. Readers of a
/// directory pass over them.
bool is_unfinished_output(const std::filesystem::path& path);

/// Finishes or undoes what a killed AtomicDirectory::commit left on a file system that cannot exchange two directories:
/// if `path` is missing and its set-aside old version exists, puts that back. Call before reading a directory that is
/// written with AtomicDirectory.
void recover_directory(const std::filesystem::path& path);

/// Removes the unfinished outputs in a directory (not below it) whose writers are gone: processes of this machine that
/// have ended. A missing directory is an empty one.
void remove_abandoned_outputs(const std::filesystem::path& directory);

}  // namespace cbtm
