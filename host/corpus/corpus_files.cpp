#include "corpus/corpus_files.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <fstream>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/made_json.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/corpus/corpus_file_sizes.h"
#include "cbtm/corpus/file_name.h"
#include "corpus/input_file.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
using Identity = std::pair<dev_t, ino_t>;

Identity identity(const struct stat& status) { return {status.st_dev, status.st_ino}; }

/// The JSON of a file; null if there is none, and discarded if it is damaged.
Json json_or_none(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return {};
  std::ifstream file(path);
  return Json::parse(file, nullptr, /*allow_exceptions=*/false);
}

/// A directory of a run or a study, told by the record of its stages, by its configuration, or, if it was stopped
/// before it had one, by the hashes of its corpus.
bool is_run_directory(const fs::path& directory) {
  const Json run = json_or_none(directory / "run.json");
  return (run.is_object() && run.contains("stages") && run["stages"].is_object()) ||
         is_made_record(json_or_none(directory / "configuration.json"), "config") ||
         is_made_record(json_or_none(directory / "corpus-hashes.json"), "files");
}

/// The entries of a directory in the order of their bytes, hidden ones left out. "" or why it cannot be read.
std::string list_directory(const fs::path& directory, std::vector<std::string>& names) {
  DIR* const stream = ::opendir(directory.c_str());
  if (stream == nullptr) return errno_text();
  errno = 0;
  while (const dirent* entry = ::readdir(stream))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  const std::string problem = errno != 0 ? errno_text() : "";
  ::closedir(stream);
  std::sort(names.begin(), names.end());
  return problem;
}

class Walk {
 public:
  Walk(const CorpusOptions& options, CorpusFiles& found) : found_(found) {
    struct stat status {};
    for (const fs::path& path : options.exclude)
      if (::stat(path.c_str(), &status) == 0) excluded_.insert(identity(status));
    for (const int stream : {STDOUT_FILENO, STDERR_FILENO})
      if (::fstat(stream, &status) == 0 && S_ISREG(status.st_mode)) own_output_.insert(identity(status));
    for (const std::string& path : options.paths)
      if (path != "-" && ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
        visited_.insert(identity(status));
  }

  /// All files below a directory that was given.
  void root(const std::string& given, const struct stat& status) {
    if (excluded_.contains(identity(status)))
      fail("{}: is the run directory itself, not a corpus; name another for what is made", shown_path(given));
    if (is_run_directory(given))
      fail("{}: is a run directory of cbtm, not a corpus; give the files that the run was made from",
           shown_path(given));
    std::vector<CorpusFile> outside;
    std::swap(outside, found_.files);
    const size_t problems_before = found_.problems.size();
    directory(given, "", identity(status));
    while (!links_.empty()) {
      const Link link = links_.front();
      links_.pop_front();
      if (!visited_.insert(link.target).second) {
        say_once(fmt::format("{}: leads to a folder that is read already; not read again", shown_path(link.path)));
        continue;
      }
      directory(link.path, link.name, link.target);
    }
    if (found_.files.empty())
      fail("{}: holds no files{}", shown_path(given),
           found_.problems.size() > problems_before ? " that can be read; first: " + found_.problems[problems_before]
                                                    : "");
    std::sort(found_.files.begin(), found_.files.end(),
              [](const CorpusFile& a, const CorpusFile& b) { return a.name < b.name; });
    outside.insert(outside.end(), found_.files.begin(), found_.files.end());
    std::swap(outside, found_.files);
  }

 private:
  struct Link {
    fs::path path;
    std::string name;
    Identity target;
  };

  void problem(const fs::path& path, std::string_view what) {
    found_.problems.push_back(fmt::format("{}: {}", shown_path(path), what));
  }

  void directory(const fs::path& path, const std::string& name, Identity self) {
    stop_if_requested("listing the corpus");
    if (!name.empty() && is_run_directory(path)) {
      say_once(fmt::format("{}: is a run directory of cbtm, left out of the corpus", shown_path(path)));
      return;
    }
    std::vector<std::string> entries;
    if (const std::string reason = list_directory(path, entries); !reason.empty()) {
      if (name.empty()) fail("{}: {}", shown_path(path), reason);
      problem(path, "a folder that cannot be read: " + reason);
    }
    above_.push_back(self);
    for (const std::string& entry : entries) one(path / entry, name.empty() ? entry : name + "/" + entry);
    above_.pop_back();
  }

  void one(const fs::path& path, const std::string& name) {
    struct stat link {};
    struct stat target {};
    if (::lstat(path.c_str(), &link) != 0) {
      if (errno != ENOENT) problem(path, errno_text());  // else it has just been removed
      return;
    }
    const bool linked = S_ISLNK(link.st_mode);
    if (::stat(path.c_str(), &target) != 0) {
      if (errno == ELOOP)
        problem(path, "a link that leads back to itself");
      else if (errno == ENOENT && linked)
        problem(path, "a link to what is not there");
      else
        problem(path, errno_text());
      return;
    }
    const Identity self = identity(target);
    if (excluded_.contains(self)) {
      say_once(fmt::format("{}: belongs to this run, left out of the corpus", shown_path(path)));
    } else if (own_output_.contains(self)) {
      say_once(fmt::format("{}: what this command prints into, left out of the corpus", shown_path(path)));
    } else if (S_ISDIR(target.st_mode)) {
      if (linked && std::find(above_.begin(), above_.end(), self) != above_.end())
        problem(path, "a link back to a folder that holds it");
      else if (linked)
        links_.push_back({path, name, self});  // after the folders themselves: a file keeps its own name
      else if (visited_.insert(self).second)
        directory(path, name, self);
    } else if (S_ISREG(target.st_mode) && is_json_result(path)) {
      say_once(fmt::format("{}: is a result of cbtm (--json), left out of the corpus", shown_path(path)));
    } else if (S_ISREG(target.st_mode)) {
      found_.files.push_back({path, name, static_cast<int64_t>(target.st_size)});
    } else {
      problem(path, "a pipe, socket or device, which is read only if it is given itself");
    }
  }

  CorpusFiles& found_;
  std::set<Identity> excluded_;
  std::set<Identity> own_output_;
  std::set<Identity> visited_;
  std::vector<Identity> above_;  ///< the directory being read and those that hold it
  std::deque<Link> links_;
};

}  // namespace

void say_once(const std::string& line) {
  static std::mutex lock;
  static std::set<std::string> said;
  {
    const std::lock_guard guard(lock);
    if (!said.insert(line).second) return;
  }
  say(line);
}

CorpusFiles list_corpus_files(const CorpusOptions& options) {
  CorpusFiles found;
  Walk walk(options, found);
  for (const std::string& given : options.paths) {
    if (given == "-") {
      found.files.push_back({"-", "stdin", 0, true});
      continue;
    }
    struct stat status {};
    if (::stat(given.c_str(), &status) != 0) {
      if (errno == ENOENT) fail("{}: there is no such file or directory", shown_path(given));
      fail("{}: {}", shown_path(given), errno_text());
    }
    if (S_ISDIR(status.st_mode))
      walk.root(given, status);
    else
      found.files.push_back({given, fs::path(given).filename().string(),
                             S_ISREG(status.st_mode) ? static_cast<int64_t>(status.st_size) : 0, true});
  }
  if (options.on_bad_document == OnBadDocument::fail && !found.problems.empty())
    fail("{}; correct it, or pass --on-bad-document skip", found.problems.front());
  return found;
}

std::vector<CorpusFileSize> corpus_file_sizes(const CorpusOptions& options) {
  std::vector<CorpusFileSize> sizes;
  for (const CorpusFile& file : list_corpus_files(options).files) sizes.push_back({file.path.string(), file.bytes});
  return sizes;
}

}  // namespace cbtm
