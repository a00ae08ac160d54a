#include "cbtm/base/content_hash.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <tuple>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/threads.h"

namespace cbtm {
namespace {

constexpr int64_t kBlockBytes = int64_t{16} << 20;

bool verification_on = true;

class OpenFile {
 public:
  explicit OpenFile(const std::filesystem::path& path) : path_(path) {
    file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file_ < 0) fail("{}: cannot be read: {}", path.string(), errno_text());
    if (::fstat(file_, &status_) != 0 || !S_ISREG(status_.st_mode)) {
      ::close(file_);
      fail("{}: is not a regular file", path.string());
    }
  }
  ~OpenFile() { ::close(file_); }
  OpenFile(const OpenFile&) = delete;

  const struct stat& status() const { return status_; }

  std::string block_hash(int64_t block) const {
    const int64_t begin = block * kBlockBytes;
    const int64_t count = std::min<int64_t>(kBlockBytes, status_.st_size - begin);
    constexpr int64_t kReadBytes = int64_t{1} << 20;
    std::string buffer(static_cast<size_t>(std::min(count, kReadBytes)), '\0');
    StreamingHash hash;
    for (int64_t done = 0; done < count;) {
      const ssize_t read = ::pread(file_, buffer.data(), static_cast<size_t>(std::min(count - done, kReadBytes)),
                                   static_cast<off_t>(begin + done));
      if (read < 0 && errno == EINTR) continue;
      if (read < 0) fail("{}: reading failed: {}", path_.string(), errno_text());
      if (read == 0) fail("{}: it became shorter while it was read", path_.string());
      hash.update(buffer.data(), static_cast<size_t>(read));
      done += read;
    }
    return hash.hex();
  }

 private:
  const std::filesystem::path& path_;
  int file_ = -1;
  struct stat status_ {};
};

std::string hash_of(const OpenFile& file) {
  const int64_t blocks = (file.status().st_size + kBlockBytes - 1) / kBlockBytes;
  std::vector<std::string> hashes(static_cast<size_t>(blocks));
  parallel_ranges(blocks, 1e6, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) hashes[static_cast<size_t>(block)] = file.block_hash(block);
  });
  StreamingHash hash;
  for (const std::string& block : hashes) hash.update(block);
  return hash.hex();
}

using FileState = std::tuple<dev_t, ino_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

FileState state_of(const struct stat& s) {
  return {s.st_dev, s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec, s.st_ctim.tv_sec, s.st_ctim.tv_nsec};
}

}  // namespace

std::string block_hash_hex(const std::filesystem::path& path) { return hash_of(OpenFile(path)); }

Json content_hashes(const std::filesystem::path& directory, const std::vector<std::string>& names) {
  Json hashes = Json::object();
  for (const std::string& name : names) {
    const std::filesystem::path path = directory / name;
    const OpenFile file(path);
    hashes[name] = {{"bytes", file.status().st_size}, {"hash", hash_of(file)}};
  }
  return hashes;
}

bool verify_content(const std::filesystem::path& directory, const std::string& name, const Json& hashes) {
  static std::mutex mutex;
  static std::map<FileState, std::string> known;
  if (!verification_on || !hashes.is_object()) return false;
  const auto entry = hashes.find(name);
  if (entry == hashes.end()) return false;
  const std::filesystem::path path = directory / name;
  if (!entry->is_object() || !entry->contains("bytes") || !(*entry)["bytes"].is_number_integer() ||
      !entry->contains("hash") || !(*entry)["hash"].is_string())
    fail("{}: its recorded content hash is damaged; restore the files, or pass --no-verify", path.string());
  const OpenFile file(path);
  if ((*entry)["bytes"] != file.status().st_size)
    fail(
        "{}: damaged or replaced: it has {} bytes, but had {} when cbtm wrote it; restore it, or make it again with "
        "--redo",
        path.string(), file.status().st_size, (*entry)["bytes"].dump());
  std::string hash;
  {
    const std::lock_guard guard(mutex);
    if (const auto found = known.find(state_of(file.status())); found != known.end()) hash = found->second;
  }
  if (hash.empty()) {
    hash = hash_of(file);
    const std::lock_guard guard(mutex);
    known[state_of(file.status())] = hash;
  }
  if ((*entry)["hash"] != hash)
    fail(
        "{}: damaged or replaced: its contents are not what cbtm wrote (content hash); restore it, make it again with "
        "--redo, or pass --no-verify to use it as it is",
        path.string());
  return true;
}

void set_content_verification(bool on) { verification_on = on; }
bool content_verification() { return verification_on; }

}  // namespace cbtm
