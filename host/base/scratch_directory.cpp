#include "cbtm/base/scratch_directory.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <string>
#include <system_error>

#include "cbtm/base/error.h"

namespace cbtm {

ScratchDirectory::ScratchDirectory(std::string_view name) {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
  if (error) fail("the directory for temporary files (TMPDIR) cannot be used: {}", error.message());
  std::string pattern = (parent / fmt::format("cbtm-{}-XXXXXX", name)).string();
  if (::mkdtemp(pattern.data()) == nullptr)
    fail("{}: no temporary directory can be made: {}; set TMPDIR", pattern, errno_text());
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace cbtm
