#include <fmt/format.h>

#include "commands/command_sets.h"
#include "commands/flag_table.h"

namespace cbtm {

CommandSet uses_of(std::string_view command) {
  CommandSet set = 0;
  for (const CommandUse& use : kUses)
    if (use.command == command) set |= use.bit;
  return set;
}

std::vector<Flag> flags_of(std::string_view command) {
  std::vector<Flag> flags;
  for (const Flag& flag : flag_table())
    if ((flag.commands & uses_of(command)) != 0) flags.push_back(flag);
  return flags;
}

std::string use_name(const CommandUse& use) {
  return use.action.empty() ? std::string(use.command) : fmt::format("{} {}", use.command, use.action);
}

std::string set_name(CommandSet set) {
  std::vector<std::string> names;
  for (const CommandUse& use : kUses) {
    if ((use.bit & set) == 0) continue;
    const bool whole = (uses_of(use.command) & ~set) == 0;
    if (std::string name = whole ? std::string(use.command) : use_name(use); names.empty() || names.back() != name)
      names.push_back(std::move(name));
  }
  std::string text = "cbtm ";
  for (size_t i = 0; i < names.size(); ++i) text += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
  return text;
}

}  // namespace cbtm
