#include "cbtm/base/made_json.h"

#include "cbtm/base/error.h"

namespace cbtm {

Json read_made_json(const std::filesystem::path& path, const std::string& remedy) {
  try {
    return read_json_file(path);
  } catch (const Error& error) {
    fail("{}; {}", error.what(), remedy);
  }
}

bool is_made_record(const Json& json, const char* key) {
  return json.is_object() && json.contains("format") && json.contains(key) && json[key].is_object();
}

}  // namespace cbtm
