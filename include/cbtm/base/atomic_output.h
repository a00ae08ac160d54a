#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace cbtm {

/// A file that is written under another name beside its path ("name.partial-HOST-PID-N"). commit() syncs it and renames
/// it over the path. Without commit() the destructor removes what was written, and the old file stays.
///
/// The constructor creates missing parent directories and follows a link. It also removes what dead writers of the same
/// file have left. A device, a pipe and an open descriptor of this process (/dev/stdout, /dev/fd/3, /proc/self/fd/3)
/// are written to directly, at their own offset.
///
/// Every function throws Error naming the file on a failure (directory not writable, disk full).
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Large data goes to a file from several threads at once.
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes that are already written (for headers that are known only at the end).
  void write_at(uint64_t offset, const void* data, size_t bytes);
  uint64_t bytes_written() const { return written_ + buffer_.size(); }
  /// Flushes, syncs and renames. Nothing may be written afterwards.
  void commit();

 private:
  void flush();
  void write_pieces(const char* data, size_t bytes);

  std::filesystem::path path_;
  std::filesystem::path partial_path_;  ///< empty if path_ is written to directly
  int file_ = -1;
  uint64_t written_ = 0;
  std::string buffer_;
};

/// A directory that is filled under another name beside its final path. The caller creates files in path(). commit()
/// adds a list of them (kOutputList) and puts the directory in its final place in one step, so a reader sees the old
/// directory or the new one, whole. Without commit() the destructor removes the partial directory.
///
/// Only a directory that holds such a list, and no file beyond it, is replaced (check_replaceable).
class AtomicDirectory {
 public:
  /// Throws Error as check_replaceable does. Nothing is written before this check.
  explicit AtomicDirectory(std::filesystem::path final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& path() const { return partial_path_; }
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path partial_path_;
  int lock_ = -1;  ///< held on the partial directory while its writer lives
  bool committed_ = false;
};

/// The file that AtomicDirectory adds to every directory. It has a first line, then the path of each file in the
/// directory.
inline constexpr const char* kOutputList = ".cbtm-files";

/// Throws Error, naming what is there, unless an AtomicDirectory may be put at this path. That is allowed if nothing or
/// an empty directory is there, or a directory that cbtm made and to which nothing was added. A link to a directory is
/// followed. Commands call this for their outputs before any work.
void check_replaceable(const std::filesystem::path& path);

/// Whether cbtm made the directory, even if files were added to it since.
bool is_output_directory(const std::filesystem::path& path);

/// Removes a directory that cbtm made. Files that somebody added to it stay, and a warning names them. A missing
/// directory is no error.
void remove_output_directory(const std::filesystem::path& path);

/// Creates a directory and its missing parents. "" is the current directory. Throws Error naming the directory.
void make_directories(const std::filesystem::path& path);

/// The kind of a single output file. It is recognised by the bytes of the file.
enum class OutputKind : uint8_t {
  json,           ///< one JSON value
  json_result,    ///< from --json: begins with "_made_by": "cbtm ..."
  id_lists,       ///< from tokenizer encode: one list of ids per line
  token_details,  ///< from --token-log-probs
  decoded_lines,  ///< from tokenizer decode: {"text":"..."} without a space
  logits,         ///< a safetensors file with the tensor "logits"
  html            ///< a report
};

/// Throws Error naming the file in two cases: an AtomicFile cannot be made there, as far as that can be known
/// beforehand; or a file of another kind is there, which the command that is about to replace it cannot have written.
void check_writable(const std::filesystem::path& path, OutputKind kind);

/// Whether a file begins as the results of cbtm do (OutputKind::json_result). False if it cannot be read.
bool is_json_result(const std::filesystem::path& path);

void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// Whether this is the name of an unfinished or set-aside output: NAME.partial-... or NAME.previous. Code that reads a
/// directory passes over them.
bool is_unfinished_output(const std::filesystem::path& path);

/// Repairs what a killed AtomicDirectory::commit() left on a file system that cannot exchange two directories: if
/// `path` is missing and its set-aside old version exists, the old version is renamed back. Call this before reading a
/// directory that AtomicDirectory writes.
void recover_directory(const std::filesystem::path& path);

/// Removes the unfinished outputs in a directory (not in its subdirectories) whose writers have ended. Only writers of
/// this machine are known. A missing directory is no error.
void remove_abandoned_outputs(const std::filesystem::path& directory);

}  // namespace cbtm
