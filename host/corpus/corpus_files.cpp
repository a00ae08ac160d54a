#include "corpus/corpus_files.h"

#include <algorithm>
#include <cstring>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/corpus/corpus.h"

namespace cbtm {
namespace {

bool is_json_lines(std::filesystem::path name) {
  if (name.extension() == ".gz" || name.extension() == ".zst") name = name.stem();
  const std::string extension = name.extension().string();
  return extension == ".jsonl" || extension == ".json" || extension == ".ndjson";
}

bool hidden(const std::filesystem::path& relative) {
  return std::any_of(relative.begin(), relative.end(),
                     [](const std::filesystem::path& part) { return part.string().starts_with("."); });
}

}  // namespace

std::vector<CorpusFile> list_corpus_files(const std::vector<std::string>& paths) {
  std::vector<CorpusFile> files;
  for (const std::string& given : paths) {
    if (given == "-") {
      files.push_back({"-", "stdin", true, 0});
      continue;
    }
    std::error_code error;
    const std::filesystem::path path = given;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) fail("{}: there is no such file or directory", given);
    if (!std::filesystem::is_directory(status)) {
      files.push_back({path, path.filename().string(), is_json_lines(path),
                       static_cast<int64_t>(std::filesystem::file_size(path, error))});
      continue;
    }
    std::vector<CorpusFile> inside;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      const std::filesystem::path relative = entry.path().lexically_relative(path);
      if (!entry.is_regular_file() || hidden(relative)) continue;
      inside.push_back({entry.path(), relative.generic_string(), is_json_lines(entry.path()),
                        static_cast<int64_t>(entry.file_size())});
    }
    if (inside.empty()) fail("{}: holds no files", given);
    std::sort(inside.begin(), inside.end(), [](const CorpusFile& a, const CorpusFile& b) { return a.name < b.name; });
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

std::string corpus_fingerprint(const CorpusOptions& options) {
  StreamingHash hash;
  for (const CorpusFile& file : list_corpus_files(options.paths)) {
    hash.update(file.name);
    hash.update(std::string_view("\0", 1));
    hash.update(&file.bytes, sizeof file.bytes);
    if (file.path == "-") continue;
    const auto changed = std::filesystem::last_write_time(file.path).time_since_epoch().count();
    hash.update(&changed, sizeof changed);
  }
  hash.update(options.text_field);
  return hash.hex();
}

}  // namespace cbtm
