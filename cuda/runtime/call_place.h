#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace cbtm::cuda {

/// "cudaMalloc, device_memory.cpp:14" for the text of a call and where it stands.
inline std::string call_place(std::string_view call, std::string_view file, int line) {
  file.remove_prefix(file.rfind('/') + 1);  // all of it if there is no slash: npos + 1 is 0
  return fmt::format("{}, {}:{}", call.substr(0, call.find('(')), file, line);
}

}  // namespace cbtm::cuda
