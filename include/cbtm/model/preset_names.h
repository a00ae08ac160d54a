#pragma once

#include <string>
#include <vector>

namespace cbtm {

/// What model_preset() knows, by rising size.
std::vector<std::string> model_preset_names();

}  // namespace cbtm
