#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "corpus/byte_source.h"

namespace cbtm {

/// What a reader of pieces (lines, elements) found.
enum class Piece : uint8_t { none, piece, too_long };

/// The unpacked text of a file, in a buffer that grows and shrinks at the reader's wish.
class FileText {
 public:
  /// Throws Error as ByteSource::open does; signals stop the reading in `stage`.
  FileText(const std::filesystem::path& path, std::string stage);

  /// Read and not dropped. Changed by more(); drop() leaves the bytes of older views in place.
  std::string_view held() const { return std::string_view(text_).substr(begin_); }
  void drop(size_t count) { begin_ += count; }
  /// Reads on; false at the end, also where the data is damaged. Throws the Error of stop_if_requested.
  bool more();
  /// Reads on until `count` bytes are held; false if the text ends before.
  bool hold(size_t count);
  /// All that is held, as a string of its own.
  std::string take();

  /// The next line, without its newline, valid until the next call. A longer one than `bytes_max` is passed over as it
  /// is read. A last line without its newline counts, unless damage cut it off.
  Piece next_line(std::string_view& line, size_t bytes_max);

  std::string damage() const { return source_->damage(); }
  const ByteSource& source() const { return *source_; }

 private:
  std::unique_ptr<ByteSource> source_;
  std::string stage_;
  std::string text_;
  size_t begin_ = 0;
  bool ended_ = false;
};

}  // namespace cbtm
