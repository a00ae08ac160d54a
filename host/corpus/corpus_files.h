#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace cbtm {

struct CorpusFile {
  std::filesystem::path path;
  std::string name;  ///< relative to the given directory, or the file's own name: what ids are made of
  bool json_lines = false;
  int64_t bytes = 0;
};

/// All files of a corpus in the fixed order of reading: as given, directories walked in sorted order, hidden files left
/// out. Throws Error if a path is missing or a directory holds no files.
std::vector<CorpusFile> list_corpus_files(const std::vector<std::string>& paths);

}  // namespace cbtm
