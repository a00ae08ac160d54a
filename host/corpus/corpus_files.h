#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

struct CorpusFile {
  std::filesystem::path path;
  std::string name;    ///< relative to the given directory, or the file's own name: what ids are made of; any bytes
  int64_t bytes = 0;   ///< on disk; 0 of a stream
  bool given = false;  ///< named on the command line itself
};

struct CorpusFiles {
  std::vector<CorpusFile> files;
  std::vector<std::string> problems;  ///< "path: what", of files and folders that cannot be read
};

/// All files of a corpus in the fixed order of reading: as given, directories walked in sorted order. Left out: hidden
/// files, what `exclude` names, run directories, and what this process prints into. A linked directory is followed
/// once. Throws Error if a given path is missing or a directory holds no files.
CorpusFiles list_corpus_files(const CorpusOptions& options);

/// Says a line on stderr, but each only once in a process: a corpus is listed more than once.
void say_once(const std::string& line);

}  // namespace cbtm
