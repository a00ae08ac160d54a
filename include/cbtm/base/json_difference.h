#pragma once

#include <cstdint>
#include <string>

#include "cbtm/base/json.h"

namespace cbtm {

/// Whether a difference shows the values. Hashes say nothing to a reader.
enum class ShownValues : uint8_t { none, both };

/// What differs between two JSON objects, in words: "learning_rate was 0.01, is 0.02; dropout is new; clip is gone".
/// Objects within both are compared member by member. "" if they are equal.
std::string json_difference(const Json& before, const Json& now, ShownValues values);

}  // namespace cbtm
