#include "cbtm/base/atomic_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = 1 << 20;

fs::path without_trailing_slash(fs::path path) {
  if (!path.has_filename() && path.has_parent_path()) path = path.parent_path();
  return path;
}

fs::path beside(const fs::path& path, std::string_view suffix) {
  return path.parent_path() / fmt::format("{}.{}", path.filename().string(), suffix);
}

void sync_parent(const fs::path& path) {
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const int directory = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  ::fsync(directory);
  ::close(directory);
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail("{}: cannot be put in place (rename from {}): {}", to.string(), from.string(), errno_text());
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status)) {
    partial_path_ = path_;
  } else {
    if (fs::is_symlink(path_, ignored) && fs::exists(status)) path_ = fs::canonical(path_);
    make_directories(path_.parent_path());
    partial_path_ = beside(path_, fmt::format("partial-{}", ::getpid()));
  }
  const int create = partial_path_ == path_ ? 0 : O_CREAT | O_TRUNC;
  file_ = ::open(partial_path_.c_str(), (create != 0 ? O_RDWR : O_WRONLY) | create | O_CLOEXEC, 0644);
  if (file_ < 0) fail("{}: cannot be written: {}", path_.string(), errno_text());
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (file_ < 0) return;
  ::close(file_);
  if (partial_path_ != path_) ::unlink(partial_path_.c_str());
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

void AtomicFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes != 0) {
    const size_t part = std::min(bytes, kBufferBytes - buffer_.size());
    buffer_.append(next, part);
    next += part;
    bytes -= part;
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t bytes) {
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
  const bool renamed = partial_path_ != path_;
  if (renamed && ::fsync(file_) != 0) fail("{}: writing failed: {}", path_.string(), errno_text());
  const int file = std::exchange(file_, -1);
  if (::close(file) != 0) {
    const std::string reason = errno_text();
    if (renamed) ::unlink(partial_path_.c_str());
    fail("{}: writing failed: {}", path_.string(), reason);
  }
  if (!renamed) return;
  rename_or_fail(partial_path_, path_);
  sync_parent(path_);
}

AtomicDirectory::AtomicDirectory(fs::path final_path)
    : final_path_(without_trailing_slash(std::move(final_path))),
      partial_path_(beside(final_path_, fmt::format("partial-{}", ::getpid()))) {
  make_directories(final_path_.parent_path());
  std::error_code error;
  fs::remove_all(partial_path_, error);
  fs::create_directory(partial_path_, error);
  if (error) fail("{}: cannot be written: {}", final_path_.string(), error.message());
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(partial_path_, ignored);
}

void AtomicDirectory::commit() {
  const fs::path previous = beside(final_path_, "previous");
  std::error_code error;
  if (fs::exists(final_path_)) {
    fs::remove_all(previous, error);
    rename_or_fail(final_path_, previous);
  }
  rename_or_fail(partial_path_, final_path_);
  committed_ = true;
  sync_parent(final_path_);
  fs::remove_all(previous, error);
}

bool is_unfinished_output(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".previous") || name.find(".partial-") != std::string::npos;
}

void recover_directory(const fs::path& path) {
  const fs::path final_path = without_trailing_slash(path);
  const fs::path previous = beside(final_path, "previous");
  if (!fs::exists(final_path) && fs::exists(previous)) rename_or_fail(previous, final_path);
}

void make_directories(const fs::path& path) {
  if (path.empty()) return;
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("{}: cannot create the directory: {}", path.string(), error.message());
}

void check_writable(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  if (fs::is_directory(status)) fail("{}: cannot be written: is a directory", path.string());
  const bool replaced = !fs::exists(status) || fs::is_regular_file(status);
  if (replaced) make_directories(path.parent_path());
  const fs::path touched = !replaced ? path : path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (::access(touched.c_str(), W_OK) != 0) fail("{}: cannot be written: {}", path.string(), errno_text());
}

void write_file_atomically(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

}  // namespace cbtm
