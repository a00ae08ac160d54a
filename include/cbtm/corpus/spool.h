#pragma once

#include <filesystem>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

/// Makes a corpus one that can be read more than once: what can be read only once among its paths (standard input,
/// pipes, `<(...)`, terminals) is kept in `directory`, as stdin.jsonl, pipe-1, pipe-2, ..., and the paths name these
/// files. Pipes keep an extension like .jsonl, which says what is in them.
///
/// A kept file is never replaced by nothing: an empty stream means the kept one. The same bytes leave it as it is.
/// Other bytes replace it if `may_replace`, and are refused else, because the run was made from what was kept. Throws
/// Error; also when a signal asks to stop.
void spool_streams(CorpusOptions& options, const std::filesystem::path& directory, bool may_replace);

}  // namespace cbtm
