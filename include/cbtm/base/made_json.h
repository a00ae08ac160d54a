#pragma once

#include <filesystem>
#include <string>

#include "cbtm/base/json.h"

namespace cbtm {

/// Reads a JSON file that cbtm itself has made, as read_json_file does. Error of a damaged one ends with `remedy`: what
/// to do, where nobody has another copy.
Json read_made_json(const std::filesystem::path& path, const std::string& remedy);

/// Whether `json` is a record of cbtm's that holds an object `key`: it names its "format", as no other program's need.
bool is_made_record(const Json& json, const char* key);

}  // namespace cbtm
