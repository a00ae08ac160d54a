#pragma once

#include <string_view>

namespace cbtm {

/// The web page at GET /: one HTML file that loads nothing else.
std::string_view page();

}  // namespace cbtm
