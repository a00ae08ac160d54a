#pragma once

#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/corpus/corpus.h"
#include "commands/command_line.h"

namespace cbtm {

/// --corpus, --text-field, --on-bad-document, --keep-duplicates, in the group "Corpus".
void add_corpus_flags(CommandLine& line);
/// What they say. Standard input ("-") is kept in `spool` first if it is to be read more than once.
CorpusOptions corpus_options(const CommandLine& line);
CorpusOptions corpus_options_spooled(const CommandLine& line, const std::filesystem::path& spool);

/// --k and everything else of clustering, in the group "Clusters".
void add_cluster_flags(CommandLine& line);
ClusterOptions cluster_options(const CommandLine& line, const CorpusOptions& corpus);

/// --tokenizer, --vocab-size, --min-frequency, in the group "Tokenizer".
void add_tokenizer_flags(CommandLine& line);

}  // namespace cbtm
