#pragma once

#include <filesystem>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

/// Makes a corpus that can be read more than once. Paths that can be read only once (standard input, pipes, `<(...)`,
/// terminals) are copied into `directory` as stdin.jsonl, pipe-1, pipe-2, ..., and `options.paths` then name these
/// files. A pipe keeps an extension like .jsonl, which says what is in it.
///
/// An empty stream never replaces a kept file: it means the kept one. The same bytes leave it unchanged. Other bytes
/// replace it if `may_replace`; otherwise they are refused, because the run was made from the kept file. Throws Error,
/// also when a signal asks to stop.
void spool_streams(CorpusOptions& options, const std::filesystem::path& directory, bool may_replace);

}  // namespace cbtm
