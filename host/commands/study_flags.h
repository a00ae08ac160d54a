#pragma once

#include <cstdint>

#include "cbtm/study/config.h"
#include "commands/command_line.h"

namespace cbtm {

/// The configuration of a study: the file of --config, and what flags say instead. Throws Error that names file and
/// key, and a usage Error for flags.
study::Config study_config(const CommandLine& line);

/// --part I/N: from 1 to N.
struct StudyPart {
  int64_t part = 1, parts = 1;
};
StudyPart study_part(const CommandLine& line);

/// Throws a usage Error for a flag that does nothing beside --join.
void check_join_flags(const CommandLine& line);

}  // namespace cbtm
