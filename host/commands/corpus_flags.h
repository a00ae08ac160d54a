#pragma once

#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/run/run_directory.h"
#include "commands/command_line.h"

namespace cbtm {

/// What --corpus and the flags beside it say, for commands that read the corpus once: standard input and pipes are read
/// as they come.
CorpusOptions corpus_options(const CommandLine& line);
/// The same for stages of a run, which read the corpus more than once: standard input and pipes are kept in the
/// run directory first, and the run directory is no part of the corpus. Throws Error if a path is not there.
CorpusOptions corpus_options_of_run(const CommandLine& line, const RunDirectory& run, bool redo);

/// --k and everything else of clustering.
ClusterOptions cluster_options(const CommandLine& line, const CorpusOptions& corpus);

}  // namespace cbtm
