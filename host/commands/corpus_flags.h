#pragma once

#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/pipeline/corpus_stages.h"
#include "commands/command_line.h"

namespace cbtm {

/// What --corpus and the flags beside it say.
CorpusOptions corpus_options(const CommandLine& line);

/// --k and everything else of clustering.
ClusterOptions cluster_options(const CommandLine& line, const CorpusOptions& corpus);

/// --tokenizer, --vocab-size and --min-frequency of a run.
TokenizerSource tokenizer_source(const CommandLine& line);

}  // namespace cbtm
