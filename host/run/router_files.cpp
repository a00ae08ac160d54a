#include "cbtm/run/router_files.h"

#include <algorithm>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDescription = "router.json";

bool same_contents(const fs::path& a, const fs::path& b) {
  return fs::exists(a) && fs::exists(b) && fs::file_size(a) == fs::file_size(b) && hash_file_hex(a) == hash_file_hex(b);
}

}  // namespace

std::vector<std::string> router_files(const fs::path& directory) {
  std::vector<std::string> files;
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(directory, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error))
    if (!entry->is_directory() && entry->path().filename() != kOutputList)
      files.push_back(entry->path().lexically_relative(directory).generic_string());
  if (error) fail("{}: cannot be read: {}", directory.string(), error.message());
  std::sort(files.begin(), files.end());
  return files;
}

bool same_router(const fs::path& copy, const fs::path& original) {
  if (!fs::exists(copy / kDescription) || !fs::exists(original / kDescription)) return false;
  const std::vector<std::string> files = router_files(original);
  return std::all_of(files.begin(), files.end(), [&](const std::string& file) {
    return fs::path(file).filename() == kDescription ? fs::exists(copy / file)
                                                     : same_contents(copy / file, original / file);
  });
}

void copy_router(const fs::path& from, const fs::path& to) {
  AtomicDirectory output(to);
  for (const std::string& name : router_files(from)) {
    make_directories((output.path() / name).parent_path());
    std::error_code error;
    fs::copy_file(from / name, output.path() / name, error);
    if (error) fail("{}: cannot be copied to {}: {}", (from / name).string(), to.string(), error.message());
  }
  output.commit();
}

}  // namespace cbtm
