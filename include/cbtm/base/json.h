#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace cbtm {

using Json = nlohmann::json;

/// Reads and parses a JSON file. Throws Error naming the file and the place of a syntax error.
Json read_json_file(const std::filesystem::path& path);

/// Writes `value` indented, beside the file and then renamed over it.
void write_json_file(const std::filesystem::path& path, const Json& value);

}  // namespace cbtm
