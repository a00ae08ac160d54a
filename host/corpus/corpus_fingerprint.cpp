#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <fstream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/made_json.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/corpus/file_name.h"
#include "corpus/corpus_files.h"

namespace cbtm {
namespace {

constexpr const char* kStage = "hashing the corpus";

int64_t nanoseconds(const timespec& time) { return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec; }

/// What a file has changed by, if it has.
Json file_state(const struct stat& status) {
  return {status.st_dev, status.st_ino, status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

/// Hashes of files, by path, each with the state that the file had.
class HashCache {
 public:
  explicit HashCache(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code ignored;
    if (path_.empty() || !std::filesystem::exists(path_, ignored)) return;
    Json read;
    if (std::filesystem::is_regular_file(path_, ignored)) {
      std::ifstream file(path_);
      read = Json::parse(file, nullptr, /*allow_exceptions=*/false);
    }
    if (is_made_record(read, "files")) {
      known_ = read["files"];
      return;
    }
    say_once(fmt::format("{}: is no list of hashes of cbtm's and is left as it is; the corpus's hashes are not kept",
                         shown_path(path_)));
    path_.clear();
  }

  /// The file's hash if it is known and the file unchanged, else "".
  std::string find(const std::string& name, const struct stat& status) {
    const auto entry = known_.find(name);
    if (entry == known_.end() || !entry->is_object() || !entry->contains("state") || !entry->contains("hash"))
      return "";
    if ((*entry)["state"] != file_state(status) || !(*entry)["hash"].is_string()) return "";
    kept_[name] = *entry;
    return (*entry)["hash"];
  }

  /// Keeps a hash, unless the file has changed so lately that it could change again within the same time stamp.
  void add(const std::string& name, const struct stat& status, const std::string& hash, int64_t hashing_began) {
    constexpr int64_t kSettled = 2'000'000'000;
    changed_ = true;
    if (nanoseconds(status.st_ctim) + kSettled > hashing_began) return;
    kept_[name] = {{"state", file_state(status)}, {"hash", hash}};
  }

  void save() const {
    if (path_.empty() || !changed_) return;
    try {
      write_json_file(path_, {{"format", 1}, {"files", kept_}});
    } catch (const Error& error) {  // all there is to lose is time
      say_once(error.what());
    }
  }

 private:
  std::filesystem::path path_;
  Json known_ = Json::object();
  Json kept_ = Json::object();
  bool changed_ = false;
};

struct Descriptor {
  int file;
  ~Descriptor() {
    if (file >= 0) ::close(file);
  }
};

class Hasher {
 public:
  Hasher(const std::filesystem::path& cache, int64_t bytes_total) : cache_(cache), bytes_total_(bytes_total) {}

  std::string hash(const CorpusFile& file) {
    stop_if_requested(kStage);
    const Descriptor opened{::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct stat status {};
    if (opened.file < 0 || ::fstat(opened.file, &status) != 0) {
      if (file.given) fail("{}: {}", shown_path(file.path), errno_text());
      return "unreadable";  // as the reader will say
    }
    if (!S_ISREG(status.st_mode)) return "stream";
    std::error_code ignored;
    const std::filesystem::path whole = std::filesystem::absolute(file.path, ignored).lexically_normal();
    const std::string name = utf8_name(whole.native());
    if (const std::string known = cache_.find(name, status); !known.empty()) {
      bytes_done_ += status.st_size;
      return known;
    }
    const int64_t began = now();
    const std::string hash = read_and_hash(opened.file, file);
    struct stat after {};
    if (::fstat(opened.file, &after) == 0 && file_state(after) == file_state(status))
      cache_.add(name, status, hash, began);
    return hash;
  }
  void save() const { cache_.save(); }

 private:
  static int64_t now() {
    timespec time{};
    ::clock_gettime(CLOCK_REALTIME, &time);
    return nanoseconds(time);
  }

  std::string read_and_hash(int opened, const CorpusFile& file) {
    StreamingHash hash;
    while (true) {
      const ssize_t count = ::read(opened, block_.data(), block_.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && file.given) fail("{}: reading failed: {}", shown_path(file.path), errno_text());
      if (count <= 0) break;
      hash.update(block_.data(), static_cast<size_t>(count));
      bytes_done_ += count;
      if (progress_.seconds() > 1)
        progress_.update(fmt::format("{} of {}", format_bytes(bytes_done_), format_bytes(bytes_total_)));
      stop_if_requested(kStage);
    }
    return hash.hex();
  }

  HashCache cache_;
  Progress progress_{kStage};
  std::vector<char> block_ = std::vector<char>(size_t{1} << 20);
  int64_t bytes_done_ = 0;
  int64_t bytes_total_;
};

}  // namespace

void check_corpus(const CorpusOptions& options) { list_corpus_files(options); }

std::string corpus_fingerprint(const CorpusOptions& options, const std::filesystem::path& cache) {
  const std::vector<CorpusFile> files = list_corpus_files(options).files;
  int64_t bytes_total = 0;
  for (const CorpusFile& file : files) bytes_total += file.bytes;
  Hasher hasher(cache, bytes_total);
  StreamingHash hash;
  for (const CorpusFile& file : files) {
    hash.update(file.name);
    hash.update(std::string_view("\0", 1));
    hash.update(file.path == "-" ? "stream" : hasher.hash(file));
  }
  hash.update(options.text_field);
  hash.update(&options.document_bytes_max, sizeof options.document_bytes_max);
  hasher.save();
  return hash.hex();
}

}  // namespace cbtm
