#include "commands/command_help.h"

#include <fmt/format.h>

#include <algorithm>

namespace cbtm {
namespace {

/// "train: ", or "encode, decode: "; "" for a flag of all the actions that are shown.
std::string actions_of(const Flag& flag, std::string_view command, CommandSet shown) {
  if ((shown & ~flag.commands) == 0) return "";
  std::string names;
  for (const CommandUse& use : command_uses())
    if (use.command == command && (use.bit & flag.commands & shown) != 0)
      names += fmt::format("{}{}", names.empty() ? "" : ", ", use.action);
  return names + ": ";
}

std::string flag_line(const Flag& flag, std::string_view command, CommandSet shown) {
  const std::string left = fmt::format("--{} {}", flag.name, flag.value_name);
  const bool shows_default = flag.default_value != nullptr && *flag.default_value != '\0';
  return fmt::format("  {:<34} {}{}{}\n", left, actions_of(flag, command, shown), flag.help,
                     shows_default ? fmt::format(" (default {})", flag.default_value) : "");
}

}  // namespace

std::string help_text(std::string_view command, std::string_view purpose, const std::vector<std::string>& examples,
                      CommandSet actions) {
  std::vector<Flag> flags = flags_of(command);
  std::erase_if(flags, [&](const Flag& flag) { return (flag.commands & actions) == 0; });
  std::string positional;
  std::vector<std::string_view> groups;
  for (const Flag& flag : flags) {
    if (flag.group.empty())
      positional += fmt::format("{} ", flag.value_name);
    else if (std::find(groups.begin(), groups.end(), flag.group) == groups.end())
      groups.push_back(flag.group);
  }
  std::string text = fmt::format("cbtm {}: {}\n\nusage: cbtm {} {}[flags]\n", command, purpose, command, positional);
  for (const std::string_view group : groups) {
    text += fmt::format("\n{}\n", group);
    for (const Flag& flag : flags)
      if (flag.group == group) text += flag_line(flag, command, actions);
  }
  if (!examples.empty()) text += "\nexamples\n";
  for (const std::string& example : examples) text += fmt::format("  {}\n", example);
  return text;
}

}  // namespace cbtm
