#include "cbtm/base/json.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/mapped_file.h"

namespace cbtm {

Json read_json_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  try {
    return Json::parse(file.text());
  } catch (const Json::parse_error& error) {
    fail("{}: not valid JSON at byte {}", path.string(), error.byte);
  }
}

void write_json_file(const std::filesystem::path& path, const Json& value) {
  write_file_atomically(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace cbtm
