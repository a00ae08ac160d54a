#include "corpus/input_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/corpus/file_name.h"

namespace cbtm {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 17;

/// N of /dev/fd/N, /proc/self/fd/N and /dev/stdin, else -1.
int descriptor_of(const std::filesystem::path& path) {
  if (path == "-" || path == "/dev/stdin") return STDIN_FILENO;
  const std::string name = path.string();
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!name.starts_with(folder)) continue;
    const std::string number = name.substr(folder.size());
    if (number.empty() || number.size() > 9 || number.find_first_not_of("0123456789") != std::string::npos) return -1;
    return std::stoi(number);
  }
  return -1;
}

bool is_null_device(const struct stat& status) {
  return S_ISCHR(status.st_mode) && major(status.st_rdev) == 1 && minor(status.st_rdev) == 3;
}

}  // namespace

bool is_stream(const std::filesystem::path& path) {
  if (path == "-") return true;
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

InputFile::InputFile(const std::filesystem::path& path, std::string stage)
    : stage_(std::move(stage)), shown_name_(shown_path(path)), buffer_(kPieceBytes) {
  const int descriptor = descriptor_of(path);
  struct stat status {};
  if (descriptor >= 0 && ::fstat(descriptor, &status) == 0 && !S_ISREG(status.st_mode)) {
    file_ = ::dup(descriptor);  // a socket cannot be opened again, and a pipe need not be
  } else if (path == "-") {
    file_ = ::dup(STDIN_FILENO);
  } else {
    // Opening a pipe that nobody writes to would wait where no signal is looked for.
    file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  }
  if (file_ < 0 || ::fstat(file_, &status) != 0) {
    const std::string reason = errno == ENXIO ? "a socket, which is not read; pipe what it gives" : errno_text();
    if (file_ >= 0) ::close(file_);
    fail("{}: {}", shown_name_, reason);
  }
  const bool endless =
      S_ISBLK(status.st_mode) || (S_ISCHR(status.st_mode) && ::isatty(file_) == 0 && !is_null_device(status));
  if (endless || S_ISDIR(status.st_mode)) {
    ::close(file_);
    fail("{}: {}", shown_name_, endless ? "a device, which is not read" : "a folder, where a file is needed");
  }
  waits_ = !S_ISREG(status.st_mode) && !is_null_device(status);
}

InputFile::~InputFile() {
  if (file_ >= 0) ::close(file_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : stage_(std::move(other.stage_)),
      shown_name_(std::move(other.shown_name_)),
      file_(std::exchange(other.file_, -1)),
      waits_(other.waits_),
      waiting_was_said_(other.waiting_was_said_),
      buffer_(std::move(other.buffer_)),
      begin_(other.begin_),
      end_(other.end_),
      read_(other.read_),
      error_(std::move(other.error_)) {}

/// Returns when there is something to read or the last writer has gone. A pipe that has had no writer yet is waited
/// for.
void InputFile::wait_for_data() {
  constexpr int kLookForSignalsMs = 200;
  constexpr int kSayAfter = 10;  // times of that
  pollfd waiting{file_, POLLIN, 0};
  for (int times = 0;; ++times) {
    stop_if_requested(stage_);
    const int ready = ::poll(&waiting, 1, kLookForSignalsMs);
    if (ready > 0 || (ready < 0 && errno != EINTR && errno != EAGAIN)) return;
    if (times == kSayAfter && !std::exchange(waiting_was_said_, true))
      say(fmt::format("{}: waiting for data ...", shown_name_));
  }
}

size_t InputFile::read_some(char* to, size_t count) {
  while (error_.empty()) {
    if (waits_) wait_for_data();
    const ssize_t got = ::read(file_, to, count);
    if (got >= 0) {
      read_ += got;
      return static_cast<size_t>(got);
    }
    if (errno != EINTR && errno != EAGAIN) error_ = fmt::format("reading failed: {}", errno_text());
  }
  return 0;
}

bool InputFile::refill() {
  if (begin_ < end_) return true;
  begin_ = 0;
  end_ = 0;
  end_ = read_some(buffer_.data(), buffer_.size());
  return end_ > 0;
}

std::span<const char> InputFile::peek(size_t count) {
  CBTM_ASSERT(count <= kPeekMax, "a larger piece may not fit into the buffer");
  if (end_ - begin_ < count && begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ - begin_ < count) {
    const size_t got = read_some(buffer_.data() + end_, buffer_.size() - end_);
    if (got == 0) break;
    end_ += got;
  }
  return available();
}

}  // namespace cbtm
