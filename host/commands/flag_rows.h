#pragma once

#include <span>

#include "commands/flag_table.h"

// The rows of the flag table (commands/flag_table.h), in files of their own by what they are about. A row is
// {group, name, alias, kind, value, default, commands, help}.

namespace cbtm {

inline constexpr FlagKind kText = FlagKind::text, kList = FlagKind::list, kInteger = FlagKind::integer,
                          kSeed = FlagKind::seed, kNumber = FlagKind::number, kToggle = FlagKind::toggle;
inline constexpr const char* kNone = nullptr;  ///< no default

/// What a command works on: the run, model, experts, routing, task and documents.
std::span<const Flag> flags_of_inputs();
/// What runs are made from: corpus, tokenizer, clusters, seed and trainings; and the sizes of benchmarks.
std::span<const Flag> flags_of_making();
/// What a study compares.
std::span<const Flag> flags_of_studies();
/// What models are used for: prompts, sampling, the server, results; and what most commands share.
std::span<const Flag> flags_of_using();

}  // namespace cbtm
