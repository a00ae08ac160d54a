#include "corpus/file_text.h"

#include <utility>

#include "cbtm/base/signals.h"

namespace cbtm {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr size_t kKeptBytes = size_t{1} << 22;  // a buffer that grew larger is given back when it is empty

}  // namespace

FileText::FileText(const std::filesystem::path& path, std::string stage)
    : source_(ByteSource::open(path, stage)), stage_(std::move(stage)) {}

bool FileText::more() {
  if (ended_) return false;
  stop_if_requested(stage_);
  text_.erase(0, begin_);
  begin_ = 0;
  if (text_.empty() && text_.capacity() > kKeptBytes) text_ = std::string();
  const size_t before = text_.size();
  text_.resize(before + kPieceBytes);
  const size_t count = source_->read({text_.data() + before, kPieceBytes});
  text_.resize(before + count);
  ended_ = count == 0;
  return count > 0;
}

bool FileText::hold(size_t count) {
  while (held().size() < count)
    if (!more()) return false;
  return true;
}

std::string FileText::take() {
  text_.erase(0, std::exchange(begin_, 0));
  return std::exchange(text_, std::string());
}

Piece FileText::next_line(std::string_view& line, size_t bytes_max) {
  size_t searched = 0;
  bool too_long = false;
  while (true) {
    const size_t end = held().find('\n', searched);
    if (end != std::string_view::npos) {
      line = held().substr(0, end);
      drop(end + 1);
      return too_long || line.size() > bytes_max ? Piece::too_long : Piece::piece;
    }
    searched = held().size();
    if (searched > bytes_max || too_long) {
      too_long = true;
      drop(std::exchange(searched, 0));
    }
    if (more()) continue;
    if (too_long) return Piece::too_long;
    if (held().empty() || !damage().empty()) return Piece::none;
    line = held();
    drop(line.size());
    return Piece::piece;
  }
}

}  // namespace cbtm
