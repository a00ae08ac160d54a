#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "commands/flag_table.h"

namespace cbtm {

/// The help of a command from its rows of the flag table. Of a command with several actions, flags say which of them
/// they are for, unless they are for all; `actions` holds the bits of those to show.
std::string help_text(std::string_view command, std::string_view purpose, const std::vector<std::string>& examples,
                      CommandSet actions);

}  // namespace cbtm
