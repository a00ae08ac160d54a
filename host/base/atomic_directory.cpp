#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <set>
#include <utility>
#include <vector>

#include "base/output_places.h"
#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kListHead = "made by cbtm; a directory that holds other files too is never replaced";

/// Paths of all that lies in a directory and below it and is no directory, relative to it, in order.
std::vector<std::string> files_below(const fs::path& directory) {
  std::vector<std::string> files;
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(directory, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error))
    if (entry->is_symlink() || !entry->is_directory())
      files.push_back(entry->path().lexically_relative(directory).generic_string());
  if (error) fail("{}: cannot be read: {}", directory.string(), error.message());
  std::sort(files.begin(), files.end());
  return files;
}

/// What is on a directory's list; false if it has none.
bool read_list(const fs::path& directory, std::set<std::string>& names) {
  std::ifstream list(directory / kOutputList);
  std::string line;
  if (!std::getline(list, line) || line != kListHead) return false;
  while (std::getline(list, line)) names.insert(line);
  names.insert(kOutputList);
  return true;
}

/// "" if a directory may be replaced, else what stands against it.
std::string foreign_content(const fs::path& directory) {
  std::error_code error;
  if (fs::is_empty(directory, error)) return "";
  std::set<std::string> names;
  if (!read_list(directory, names)) {
    const auto first = fs::directory_iterator(directory, error);
    return fmt::format("holds '{}' and was not made by cbtm, or lost its .cbtm-files",
                       first == fs::directory_iterator() ? "?" : first->path().filename().string());
  }
  for (const std::string& file : files_below(directory))
    if (!names.contains(file)) return fmt::format("holds '{}', which is not cbtm's", file);
  return "";
}

/// The directory that a link leads to, else the path itself.
fs::path followed(const fs::path& path) {
  std::error_code error;
  fs::path place = without_trailing_slash(path);
  if (place.empty() || place.filename() == "." || place.filename() == "..")
    place = without_trailing_slash(fs::absolute(place).lexically_normal());
  if (!fs::is_symlink(place, error)) return place;
  const fs::path target = fs::canonical(place, error);
  if (error) fail("{}: is a link that leads nowhere; remove it, or name another directory", path.string());
  return target;
}

/// Exchanges two directories in one step. False if the file system cannot.
bool exchange(const fs::path& a, const fs::path& b) {
  constexpr unsigned kRenameExchange = 2;
  return ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kRenameExchange) == 0;
}

/// Removes what is on the list, then all directories that are empty then. True if nothing is left.
bool remove_listed(const fs::path& directory) {
  std::error_code ignored;
  std::set<std::string> names;
  if (!read_list(directory, names)) return fs::remove(directory, ignored);
  names.erase(kOutputList);
  for (const std::string& name : names) fs::remove(directory / name, ignored);
  std::vector<fs::path> directories;
  for (auto entry = fs::recursive_directory_iterator(directory, ignored);
       !ignored && entry != fs::recursive_directory_iterator(); entry.increment(ignored))
    if (!entry->is_symlink() && entry->is_directory()) directories.push_back(entry->path());
  for (auto inner = directories.rbegin(); inner != directories.rend(); ++inner) fs::remove(*inner, ignored);
  const bool alone = std::distance(fs::directory_iterator(directory, ignored), fs::directory_iterator()) == 1;
  if (!alone) return false;
  fs::remove(directory / kOutputList, ignored);
  return fs::remove(directory, ignored);
}

}  // namespace

void check_replaceable(const fs::path& path) {
  const fs::path place = followed(path);
  std::error_code error;
  fs::path above = fs::absolute(place).parent_path();
  while (!fs::exists(above, error) && above.has_relative_path() && (!error || error == std::errc::not_a_directory))
    above = above.parent_path();
  if (fs::exists(above, error) && !fs::is_directory(above, error))
    fail("{}: cannot be written: {} is a file, not a directory", path.string(), above.string());
  if (::access(above.c_str(), W_OK | X_OK) != 0)
    fail("{}: cannot be written: {}: {}", path.string(), above.string(), errno_text());
  const fs::file_status status = fs::status(place, error);
  if (!fs::exists(status)) {
    if (error && error != std::errc::no_such_file_or_directory)
      fail("{}: cannot be written: {}", path.string(), error.message());
    return;
  }
  if (!fs::is_directory(status))
    fail("{}: is a file, but a directory is to be written there; name another", path.string());
  if (fs::equivalent(place, fs::current_path(error), error))
    fail("{}: is the current directory, which cannot be replaced; name one below it", path.string());
  if (const std::string foreign = foreign_content(place); !foreign.empty())
    fail("{}: {}; it is left as it is: name another directory, or move that away", path.string(), foreign);
}

bool is_output_directory(const fs::path& path) {
  std::set<std::string> names;
  return read_list(path, names);
}

AtomicDirectory::AtomicDirectory(fs::path final_path) {
  check_replaceable(final_path);
  final_path_ = followed(final_path);
  make_directories(final_path_.parent_path());
  remove_abandoned_partials_of(final_path_);
  partial_path_ = new_partial_path(final_path_);
  std::error_code error;
  fs::create_directory(partial_path_, error);
  if (error) fail("{}: cannot be written: {}", final_path_.string(), error.message());
  lock_ = ::open(partial_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);
}

AtomicDirectory::~AtomicDirectory() {
  if (lock_ >= 0) ::close(lock_);
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(partial_path_, ignored);
}

void AtomicDirectory::commit() {
  std::string list = std::string(kListHead) + "\n";
  for (const std::string& file : files_below(partial_path_)) list += file + "\n";
  write_file_atomically(partial_path_ / kOutputList, list);
  sync_directory(partial_path_);

  std::error_code error;
  if (fs::exists(final_path_, error)) {
    // Somebody may have put files there since the work began.
    if (const std::string foreign = foreign_content(final_path_); !foreign.empty()) {
      const fs::path kept = beside(final_path_, fmt::format("new-{}", ::getpid()));
      rename_or_fail(partial_path_, kept);
      committed_ = true;
      fail("{}: {}; it is left as it is, and the new result is in {}", final_path_.string(), foreign, kept.string());
    }
    if (exchange(partial_path_, final_path_)) {
      committed_ = true;
      sync_directory(final_path_.parent_path());
      remove_listed(partial_path_);
      return;
    }
    const fs::path previous = beside(final_path_, "previous");
    check_replaceable(previous);
    if (fs::exists(previous)) remove_listed(previous);
    rename_or_fail(final_path_, previous);
    rename_or_fail(partial_path_, final_path_);
    committed_ = true;
    sync_directory(final_path_.parent_path());
    remove_listed(previous);
    return;
  }
  rename_or_fail(partial_path_, final_path_);
  committed_ = true;
  sync_directory(final_path_.parent_path());
}

void remove_output_directory(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return;
  // Out of the way in one step, so that a process killed here leaves no half of it.
  const fs::path place = followed(path);
  if (!foreign_content(place).empty()) {
    remove_listed(place);
    warn(fmt::format("{}: {}; what is not cbtm's stays there", path.string(), foreign_content(place)));
    return;
  }
  const fs::path aside = new_partial_path(place);
  rename_or_fail(place, aside);
  remove_listed(aside);
}

void recover_directory(const fs::path& path) {
  const fs::path place = without_trailing_slash(path);
  const fs::path previous = beside(place, "previous");
  std::set<std::string> names;
  std::error_code error;
  if (!fs::exists(place, error) && fs::is_directory(previous, error) && read_list(previous, names))
    rename_or_fail(previous, place);
}

}  // namespace cbtm
