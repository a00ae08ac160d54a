#include "pipeline/own_outputs.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <system_error>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/json.h"
#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// Lies below one of the directories, however they are written.
bool is_within(const fs::path& file, const std::vector<std::string>& directories) {
  return std::any_of(directories.begin(), directories.end(), [&](const std::string& directory) {
    std::error_code error;
    const fs::path whole = fs::canonical(directory, error);
    if (error || !fs::is_directory(whole, error)) return false;
    return std::mismatch(whole.begin(), whole.end(), file.begin(), file.end()).first == whole.end();
  });
}

/// The files behind standard output and standard error.
std::vector<fs::path> printed_into() {
  std::vector<fs::path> files;
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    struct stat status {};
    std::error_code error;
    if (::fstat(stream, &status) != 0 || !S_ISREG(status.st_mode)) continue;
    const fs::path file = fs::read_symlink("/proc/self/fd/" + std::to_string(stream), error);
    if (!error) files.push_back(file);
  }
  return files;
}

}  // namespace

void exclude_own_outputs(CorpusOptions& options, const RunDirectory& run) {
  const fs::path memory = run.root() / "printed-into.json";
  std::ifstream file(memory);
  Json known = file ? Json::parse(file, nullptr, /*allow_exceptions=*/false) : Json();
  if (!known.is_array()) known = Json::array();
  bool more = false;
  for (const fs::path& output : printed_into()) {
    const std::string& name = output.native();
    if (find_invalid_utf8(name) != std::string::npos || !is_within(output, options.paths)) continue;
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    known.push_back(name);
    more = true;
  }
  for (const Json& name : known)
    if (name.is_string()) options.exclude.emplace_back(name.get<std::string>());
  if (more) write_json_file(memory, known);
}

}  // namespace cbtm
