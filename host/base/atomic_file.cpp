#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <future>
#include <optional>
#include <utility>
#include <vector>

#include "base/output_places.h"
#include "cbtm/base/atomic_output.h"
#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = 1 << 20;

/// Large data is written in pieces of this size, by so many threads at most.
constexpr size_t kPieceBytes = 16 << 20;
constexpr size_t kWritersMax = 8;

/// The number that a path like /dev/fd/3 or /proc/self/fd/3 ends in, if `directory` is what holds descriptors.
std::optional<int> descriptor_number(const fs::path& path) {
  const std::string directory = path.parent_path().string();
  if (directory != "/dev/fd" && directory != "/proc/self/fd" && directory != "/proc/thread-self/fd" &&
      directory != fmt::format("/proc/{}/fd", ::getpid()))
    return std::nullopt;
  const std::string name = path.filename().string();
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 0) return std::nullopt;
  return number;
}

/// The descriptor of this process that a path names, itself or through links (/dev/stdout is one).
std::optional<int> named_descriptor(fs::path path) {
  constexpr int kLinksMax = 40;
  std::error_code error;
  for (int link = 0; link < kLinksMax; ++link) {
    path = fs::absolute(path).lexically_normal();
    if (const std::optional<int> number = descriptor_number(path)) return number;
    if (!fs::is_symlink(path, error)) return std::nullopt;
    const fs::path target = fs::read_symlink(path, error);
    if (error) return std::nullopt;
    path = target.is_absolute() ? target : path.parent_path() / target;
  }
  return std::nullopt;
}

bool begins_as(OutputKind kind, std::string_view bytes) {
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  switch (kind) {
    case OutputKind::json: return first != std::string_view::npos && (bytes[first] == '{' || bytes[first] == '[');
    case OutputKind::json_result: return bytes.starts_with("{\n  \"_made_by\": \"cbtm ");
    case OutputKind::id_lists:
      return bytes.size() > 1 && bytes[0] == '[' && (bytes[1] == ']' || (bytes[1] >= '0' && bytes[1] <= '9'));
    case OutputKind::token_details:
      return bytes.starts_with("{\"id\":") && bytes.find("\"log_probabilities\":") != std::string_view::npos;
    case OutputKind::decoded_lines: return bytes.starts_with("{\"text\":\"");
    case OutputKind::logits: return bytes.size() > 8 && bytes.find("\"logits\":") != std::string_view::npos;
    case OutputKind::html: return bytes.find("cbtm</title>") != std::string_view::npos;
  }
  return false;
}

/// A file that holds one JSON value ends with the bracket it began with; JSON lines have further lines that begin so.
bool is_one_json_value(const fs::path& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return false;
  bool line_began = true;
  int64_t values = 0;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) {
    // Results are indented: only the value itself begins at the beginning of a line.
    if (line_began && (c == '{' || c == '[')) ++values;
    line_began = c == '\n';
  }
  std::fclose(file);
  return values == 1;
}

const char* kind_name(OutputKind kind) {
  switch (kind) {
    case OutputKind::json: return "a JSON file";
    case OutputKind::json_result: return "a result of cbtm";
    case OutputKind::id_lists: return "encoded text of cbtm";
    case OutputKind::token_details: return "log-probabilities of cbtm";
    case OutputKind::decoded_lines: return "decoded text of cbtm";
    case OutputKind::logits: return "logits of cbtm";
    case OutputKind::html: return "a report of cbtm";
  }
  return "?";
}

/// The first 1024 bytes of a file; nothing, and errno, if it cannot be read.
std::optional<std::string> first_bytes(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return std::nullopt;
  std::string bytes(1024, '\0');
  const ssize_t count = ::read(file, bytes.data(), bytes.size());
  const int error = errno;
  ::close(file);
  errno = error;
  if (count < 0) return std::nullopt;
  bytes.resize(static_cast<size_t>(count));
  return bytes;
}

void check_kind(const fs::path& path, OutputKind kind) {
  const std::optional<std::string> bytes = first_bytes(path);
  if (!bytes) fail("{}: a file that cannot be read stands there: {}; name another", path.string(), errno_text());
  if (bytes->empty()) return;
  if (!begins_as(kind, *bytes) || (kind == OutputKind::json && !is_one_json_value(path)))
    fail("{}: another file stands there, not {}; it is left as it is: move it away, or name another", path.string(),
         kind_name(kind));
}

}  // namespace

bool is_json_result(const fs::path& path) {
  const std::optional<std::string> bytes = first_bytes(path);
  return bytes && begins_as(OutputKind::json_result, *bytes);
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  std::error_code ignored;
  if (const std::optional<int> descriptor = named_descriptor(path_)) {
    if (*descriptor == STDOUT_FILENO) std::fflush(stdout);
    file_ = ::fcntl(*descriptor, F_DUPFD_CLOEXEC, 0);
    if (file_ < 0) fail("{}: cannot be written: {}", path_.string(), errno_text());
    return;
  }
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::is_directory(status)) fail("{}: cannot be written: is a directory", path_.string());
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    file_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    if (fs::is_symlink(path_, ignored) && fs::exists(status)) path_ = fs::canonical(path_);
    make_directories(path_.parent_path());
    remove_abandoned_partials_of(path_);
    partial_path_ = new_partial_path(path_);
    file_ = ::open(partial_path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file_ >= 0) ::flock(file_, LOCK_EX | LOCK_NB);
  }
  if (file_ < 0) fail("{}: cannot be written: {}", path_.string(), errno_text());
}

AtomicFile::~AtomicFile() {
  if (file_ < 0) return;
  ::close(file_);
  if (!partial_path_.empty()) ::unlink(partial_path_.c_str());
}

void AtomicFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t count = ::write(file_, buffer_.data() + done, buffer_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("{}: writing failed: {}; what was there before is untouched", path_.string(), errno_text());
    done += static_cast<size_t>(count);
  }
  written_ += buffer_.size();
  buffer_.clear();
}

void AtomicFile::write_pieces(const char* data, size_t bytes) {
  const auto pieces = static_cast<size_t>(ceil_divide(static_cast<int64_t>(bytes), kPieceBytes));
  std::atomic<size_t> next_piece = 0;
  std::atomic<int> failure = 0;  // an errno
  const auto write_some = [&] {
    for (size_t piece = next_piece++; piece < pieces && failure == 0; piece = next_piece++) {
      size_t done = piece * kPieceBytes;
      const size_t end = std::min<size_t>(bytes, done + kPieceBytes);
      while (done < end) {
        const ssize_t count = ::pwrite(file_, data + done, end - done, static_cast<off_t>(written_ + done));
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) failure = count < 0 ? errno : ENOSPC;
        if (count <= 0) break;
        done += static_cast<size_t>(count);
      }
    }
  };
  std::vector<std::future<void>> helpers;
  const size_t threads = std::min<size_t>({pieces, static_cast<size_t>(thread_count()), kWritersMax});
  for (size_t i = 1; i < threads; ++i) helpers.push_back(std::async(std::launch::async, write_some));
  write_some();
  for (std::future<void>& helper : helpers) helper.get();
  if (failure == 0) {
    written_ += bytes;
    if (::lseek(file_, static_cast<off_t>(written_), SEEK_SET) < 0) failure = errno;
  }
  if (failure != 0)
    fail("{}: writing failed: {}; what was there before is untouched", path_.string(),
         std::generic_category().message(failure));
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  if (bytes >= 2 * kPieceBytes && !partial_path_.empty()) {
    flush();
    return write_pieces(next, bytes);
  }
  while (bytes != 0) {
    const size_t part = std::min(bytes, kBufferBytes - buffer_.size());
    buffer_.append(next, part);
    next += part;
    bytes -= part;
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t bytes) {
  CBTM_ASSERT(!partial_path_.empty(), "a stream has no bytes to overwrite");
  flush();
  CBTM_ASSERT(offset + bytes <= written_, "write_at overwrites, it does not extend");
  const char* next = static_cast<const char*>(data);
  while (bytes != 0) {
    const ssize_t count = ::pwrite(file_, next, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("{}: writing failed: {}", path_.string(), errno_text());
    next += count;
    offset += static_cast<uint64_t>(count);
    bytes -= static_cast<size_t>(count);
  }
}

void AtomicFile::commit() {
  flush();
  const bool renamed = !partial_path_.empty();
  if (renamed && ::fsync(file_) != 0) fail("{}: writing failed: {}", path_.string(), errno_text());
  if (renamed) rename_or_fail(partial_path_, path_);
  partial_path_.clear();
  const int file = std::exchange(file_, -1);
  if (::close(file) != 0) fail("{}: writing failed: {}", path_.string(), errno_text());
  if (renamed) sync_directory(path_.parent_path());
}

void check_writable(const fs::path& path, OutputKind kind) {
  if (named_descriptor(path)) return;
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  if (fs::is_directory(status)) fail("{}: cannot be written: is a directory", path.string());
  const bool replaced = !fs::exists(status) || fs::is_regular_file(status);
  if (replaced) make_directories(path.parent_path());
  const fs::path touched = !replaced ? path : path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (::access(touched.c_str(), W_OK) != 0) fail("{}: cannot be written: {}", path.string(), errno_text());
  if (fs::is_regular_file(status)) check_kind(path, kind);
}

void write_file_atomically(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

}  // namespace cbtm
