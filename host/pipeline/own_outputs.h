#pragma once

#include "cbtm/corpus/corpus.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// Leaves the logs of a run out of its corpus: the files within the corpus's directories that this command prints into,
/// and those that earlier commands of the same run did, which RUN/printed-into.json remembers. A log would else be a
/// document, and a corpus that changes by being read.
void exclude_own_outputs(CorpusOptions& options, const RunDirectory& run);

}  // namespace cbtm
