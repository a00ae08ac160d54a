#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

struct CorpusFileSize {
  std::string path;
  int64_t bytes = 0;  ///< on disk; 0 of a stream
};

/// The files of a corpus in the order of reading. Throws Error as check_corpus does.
std::vector<CorpusFileSize> corpus_file_sizes(const CorpusOptions& options);

}  // namespace cbtm
