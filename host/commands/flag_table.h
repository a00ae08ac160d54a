#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

/// A set of commands, one bit for each. A command that does several things has one bit for each of them.
using CommandSet = uint32_t;

/// A command as the flag table knows it: "cluster", or "tokenizer" with its action "encode".
struct CommandUse {
  CommandSet bit;
  std::string_view command;
  std::string_view action;  ///< the first argument of a command that has several actions; else empty
};
std::span<const CommandUse> command_uses();

/// "tokenizer encode": the command and its action.
std::string use_name(const CommandUse& use);
/// "cbtm run, train_seed and tokenizer train". Actions are left out where all of a command's are in the set.
std::string set_name(CommandSet set);

enum class FlagKind : uint8_t { text, list, integer, seed, number, toggle };

/// One flag of some commands. A flag that means something else in another command has another row there.
struct Flag {
  std::string_view group;  ///< its title in the help; empty for positional arguments
  std::string_view name;   ///< without the dashes
  std::string_view alias;  ///< an older spelling that is understood too, or empty
  FlagKind kind;
  std::string_view value_name;  ///< what its value is called in the help; empty for a toggle
  const char* default_value;    ///< as it would be typed; null if it has none
  CommandSet commands;          ///< those that it does something for; any other refuses it
  std::string_view help;
};

/// All flags of all commands, in the order of the help texts. No command has two rows with one name.
std::span<const Flag> flag_table();

/// The rows of one command, whichever of its actions they apply to.
std::vector<Flag> flags_of(std::string_view command);
/// All actions of a command.
CommandSet uses_of(std::string_view command);

}  // namespace cbtm
