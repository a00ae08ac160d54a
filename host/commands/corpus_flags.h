#pragma once

#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/run/run_directory.h"
#include "commands/command_line.h"

namespace cbtm {

/// --corpus, --text-field and what else says how to read it, in the group "Corpus".
void add_corpus_flags(CommandLine& line);
/// What they say, for commands that read the corpus once: standard input and pipes are read as they come.
CorpusOptions corpus_options(const CommandLine& line);
/// What they say, for stages of a run, which read the corpus more than once: standard input and pipes are kept in the
/// run directory first, and the run directory is no part of the corpus. Throws Error if a path is not there.
CorpusOptions corpus_options_of_run(const CommandLine& line, const RunDirectory& run, bool redo);

/// --k and everything else of clustering, in the group "Clusters".
void add_cluster_flags(CommandLine& line);
ClusterOptions cluster_options(const CommandLine& line, const CorpusOptions& corpus);

/// --tokenizer, --vocab-size, --min-frequency, in the group "Tokenizer".
void add_tokenizer_flags(CommandLine& line);

}  // namespace cbtm
