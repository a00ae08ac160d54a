#include "cluster/growing_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"

namespace cbtm {

size_t GrowingFiles::add(std::filesystem::path path) {
  files_.push_back({.path = std::move(path)});
  return files_.size() - 1;
}

void GrowingFiles::append(size_t file, std::string_view bytes) {
  files_[file].waiting.append(bytes);
  waiting_bytes_ += bytes.size();
  if (waiting_bytes_ > waiting_bytes_max_) write_longest();
}

/// Those that hold at least the mean: half of all bytes or more, in the fewest files.
void GrowingFiles::write_longest() {
  const size_t mean = waiting_bytes_ / files_.size();
  for (File& file : files_)
    if (file.waiting.size() >= mean) write(file);
}

void GrowingFiles::write(File& file) {
  if (!file.begun) make_directories(file.path.parent_path());
  const int create = file.begun ? O_APPEND : O_CREAT | O_TRUNC;
  const int descriptor = ::open(file.path.c_str(), O_WRONLY | O_CLOEXEC | create, 0644);
  if (descriptor < 0) fail("{}: cannot be written: {}", file.path.string(), errno_text());
  file.begun = true;
  size_t done = 0;
  while (done < file.waiting.size()) {
    const ssize_t count = ::write(descriptor, file.waiting.data() + done, file.waiting.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const std::string reason = errno_text();
      ::close(descriptor);
      fail("{}: writing failed: {}; what was there before is untouched", file.path.string(), reason);
    }
    done += static_cast<size_t>(count);
  }
  if (::close(descriptor) != 0) fail("{}: writing failed: {}", file.path.string(), errno_text());
  waiting_bytes_ -= file.waiting.size();
  std::string().swap(file.waiting);
}

void GrowingFiles::finish(const std::filesystem::path& directory) {
  for (File& file : files_) {
    stop_if_requested("shards");
    if (!file.waiting.empty() || !file.begun) write(file);
  }
  // A sync for each of thousands of files would take minutes.
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail("{}: cannot be opened: {}", directory.string(), errno_text());
  const int failed = ::syncfs(descriptor);
  const std::string reason = failed != 0 ? errno_text() : "";
  ::close(descriptor);
  if (failed != 0) fail("{}: writing failed: {}; what was there before is untouched", directory.string(), reason);
}

}  // namespace cbtm
