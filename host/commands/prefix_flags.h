#pragma once

#include <optional>

#include "cbtm/prefix/prefix_clustering.h"
#include "commands/command_line.h"

namespace cbtm {

/// Whether --router asks for a prefix router. Throws a usage Error for another kind than tfidf and prefix, and for
/// flags that do nothing for the kind.
bool asks_for_prefix_router(const CommandLine& line);

/// How --router prefix divides the corpus; nothing without it. Its vocabulary is set by who has the tokenizer. Throws a
/// usage Error.
std::optional<PrefixClusteringOptions> prefix_clustering_options(const CommandLine& line);

}  // namespace cbtm
