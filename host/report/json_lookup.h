#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "cbtm/base/json.h"

namespace cbtm::report {

/// Members of members of a JSON value that may be missing or of another type than expected: what a report reads may be
/// of an unfinished run or of another version.

using JsonPath = std::initializer_list<std::string_view>;

/// The value at a path of member names, or null.
const Json& find(const Json& json, JsonPath path);
/// The number there, or NaN; NaN too for one that no run can hold (more than 1e18).
double number(const Json& json, JsonPath path);
/// The string there, or any other value as JSON; "" if there is none.
std::string text(const Json& json, JsonPath path);

}  // namespace cbtm::report
