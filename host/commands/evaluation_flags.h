#pragma once

#include "cbtm/ensemble/evaluate.h"
#include "commands/command_line.h"

namespace cbtm {

/// Throws a usage Error for flags of documents that contradict each other, or do nothing beside the others.
void check_document_flags(const CommandLine& line);

/// The documents that --run and --split, or the corpus flags, name. `default_run`: taken where neither --run nor
/// --corpus is given, if it is a run; `default_split`: where --split is not given.
std::vector<EvaluationDocument> documents_of(const CommandLine& line, const Tokenizer& tokenizer,
                                             const std::filesystem::path& default_run, Json& described,
                                             const std::string& default_split = "valid");

}  // namespace cbtm
