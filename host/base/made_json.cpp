#include "cbtm/base/made_json.h"

#include "cbtm/base/error.h"

namespace cbtm {

Json read_made_json(const std::filesystem::path& path, const std::string& remedy) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored) && std::filesystem::file_size(path, ignored) == 0)
    fail("{}: is empty; {}", path.string(), remedy);
  try {
    return read_json_file(path);
  } catch (const Error& error) {
    fail("{}; {}", error.what(), remedy);
  }
}

}  // namespace cbtm
