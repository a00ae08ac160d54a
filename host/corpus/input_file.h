#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace cbtm {

/// Bytes of a regular file, a pipe, a terminal, or standard input ("-"), read in pieces. Waiting for a pipe ends with
/// the Error of stop_if_requested(stage) when a signal asks to stop.
class InputFile {
 public:
  /// Throws Error naming the path if it cannot be opened, is a directory, or is a device without an end.
  InputFile(const std::filesystem::path& path, std::string stage);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  /// What was read and not consumed.
  std::span<const char> available() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void consume(size_t count) { begin_ += count; }
  /// Reads the next piece if nothing is available; false at the end of the file, or when reading fails: see error().
  bool refill();
  /// At least `count` bytes (at most kPeekMax), fewer only where the file ends. They stay available.
  std::span<const char> peek(size_t count);
  /// Why reading failed, "" if it did not.
  const std::string& error() const { return error_; }
  /// Bytes consumed so far.
  int64_t consumed() const { return read_ - static_cast<int64_t>(end_ - begin_); }

  static constexpr size_t kPeekMax = size_t{1} << 12;

 private:
  size_t read_some(char* to, size_t count);
  void wait_for_data();

  std::string stage_;
  std::string shown_name_;
  int file_ = -1;
  bool waits_ = false;  ///< a pipe or a terminal: reading may wait for its writer
  bool waiting_was_said_ = false;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t read_ = 0;
  std::string error_;
};

/// True of paths that can be read only once: "-", pipes, sockets, terminals and other devices.
bool is_stream(const std::filesystem::path& path);

}  // namespace cbtm
