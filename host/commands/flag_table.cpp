#include "commands/flag_table.h"

#include "commands/command_sets.h"
#include "commands/flag_rows.h"

namespace cbtm {

std::span<const CommandUse> command_uses() { return kUses; }

std::span<const Flag> flag_table() {
  static const std::vector<Flag> kFlags = [] {
    std::vector<Flag> flags;
    for (const std::span<const Flag> rows :
         {flags_of_inputs(), flags_of_making(), flags_of_studies(), flags_of_using()})
      flags.insert(flags.end(), rows.begin(), rows.end());
    return flags;
  }();
  return kFlags;
}

}  // namespace cbtm
