#include "base/output_places.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <vector>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartial = ".partial-";

const std::string& host_name() {
  static const std::string kName = [] {
    char name[65] = "";
    if (::gethostname(name, sizeof name - 1) != 0) name[0] = '\0';
    std::string host = name;
    for (char& c : host)
      if (c == '/') c = '_';
    return host.empty() ? std::string("localhost") : host;
  }();
  return kName;
}

/// The name of the finished output that a partial name of this machine belongs to, and its writer.
struct PartialName {
  std::string name;
  pid_t writer = 0;
};

/// False if it is no name that new_partial_path makes on this machine.
bool parse_partial(const std::string& file_name, PartialName& partial) {
  const size_t cut = file_name.rfind(kPartial);
  if (cut == std::string::npos || cut == 0) return false;
  const std::string_view rest = std::string_view(file_name).substr(cut + kPartial.size());
  const std::string prefix = host_name() + "-";
  if (!rest.starts_with(prefix)) return false;
  const char* end = rest.data() + rest.size();
  long writer = 0, number = 0;
  const auto [writer_end, writer_error] = std::from_chars(rest.data() + prefix.size(), end, writer);
  if (writer_error != std::errc() || writer <= 0 || writer_end == end || *writer_end != '-') return false;
  const auto [number_end, number_error] = std::from_chars(writer_end + 1, end, number);
  if (number_error != std::errc() || number_end != end) return false;
  partial = {file_name.substr(0, cut), static_cast<pid_t>(writer)};
  return true;
}

/// Machines that share a name may share a file system too: a living writer also holds a lock.
bool writer_is_gone(const fs::path& path, pid_t writer) {
  if (writer == ::getpid() || ::kill(writer, 0) == 0 || errno != ESRCH) return false;
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (file < 0) return false;
  const bool locked = ::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(file);
  return !locked;
}

template <typename Wanted>
void remove_abandoned(const fs::path& directory, const Wanted& wanted) {
  std::error_code error;
  std::vector<fs::path> abandoned;
  for (auto entry = fs::directory_iterator(directory, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    PartialName partial;
    if (parse_partial(entry->path().filename().string(), partial) && wanted(partial.name) &&
        writer_is_gone(entry->path(), partial.writer))
      abandoned.push_back(entry->path());
  }
  for (const fs::path& path : abandoned) fs::remove_all(path, error);
}

}  // namespace

fs::path without_trailing_slash(fs::path path) {
  if (!path.has_filename() && path.has_parent_path()) path = path.parent_path();
  return path;
}

fs::path beside(const fs::path& path, std::string_view suffix) {
  return path.parent_path() / fmt::format("{}.{}", path.filename().string(), suffix);
}

fs::path new_partial_path(const fs::path& path) {
  static std::atomic<int64_t> next = 0;
  return path.parent_path() /
         fmt::format("{}{}{}-{}-{}", path.filename().string(), kPartial, host_name(), ::getpid(), next++);
}

void remove_abandoned_partials_of(const fs::path& path) {
  const std::string name = path.filename().string();
  remove_abandoned(path.has_parent_path() ? path.parent_path() : fs::path("."),
                   [&](const std::string& finished) { return finished == name; });
}

void remove_abandoned_outputs(const fs::path& directory) {
  remove_abandoned(directory, [](const std::string&) { return true; });
}

bool is_unfinished_output(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".previous") || name.find(kPartial) != std::string::npos;
}

void sync_directory(const fs::path& directory) {
  const int opened = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened < 0) return;
  ::fsync(opened);
  ::close(opened);
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail("{}: cannot be put in place (rename from {}): {}", to.string(), from.string(), errno_text());
}

void make_directories(const fs::path& path) {
  if (path.empty()) return;
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("{}: cannot create the directory: {}", path.string(), error.message());
}

}  // namespace cbtm
