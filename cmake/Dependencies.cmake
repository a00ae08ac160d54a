# Every dependency is a Debian package; scripts/install-deps.sh installs them all. They are found by a header, and an
# archive where there is something to link, so that a folder which holds no more than those (CMAKE_PREFIX_PATH;
# scripts/gpu-check --pack) does as well.

# cbtm_dependency(TARGET HEADER DEBIAN_PACKAGE [LIBRARY]): an imported target of the header's folder, and of libLIBRARY: its
# archive, or else its shared library.
function(cbtm_dependency target header debian_package)
  string(MAKE_C_IDENTIFIER ${target} name)
  find_path(${name}_INCLUDE ${header})
  if(ARGN)
    find_library(${name}_LIBRARY NAMES lib${ARGV3}.a ${ARGV3})
  endif()
  if(NOT ${name}_INCLUDE OR (ARGN AND NOT ${name}_LIBRARY))
    message(FATAL_ERROR "${header} is missing. Install it: apt-get install ${debian_package} (or run scripts/install-deps.sh)")
  endif()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} INTERFACE ${${name}_INCLUDE})
  if(ARGN)
    target_link_libraries(${target} INTERFACE ${${name}_LIBRARY})
  endif()
endfunction()

cbtm_dependency(fmt::fmt fmt/format.h libfmt-dev)
# host/base/formatting.cpp compiles fmt's functions once, which takes seconds off every other file. Whether it suits the
# version that is installed is tried once in a build folder.
if(NOT DEFINED CBTM_COMPILED_FORMATTING)
  file(WRITE ${CMAKE_BINARY_DIR}/try_formatting/main.cpp "
#include <fmt/ranges.h>
#include <string>
#include <vector>
int main(int count, char** words) {
  const std::vector<double> numbers(static_cast<size_t>(count), 0.5);
  const std::string text = fmt::format(\"{:>9.3f} {} {:08x} {}\", numbers[0], words[0], count, fmt::join(numbers, \", \"));
  return text == fmt::format(\"{:.9Lg}{:.9g}\", 1.5f, 1e300) ? 1 : 0;
}
")
  try_compile(CBTM_COMPILED_FORMATTING ${CMAKE_BINARY_DIR}/try_formatting
    SOURCES ${CMAKE_BINARY_DIR}/try_formatting/main.cpp ${CMAKE_SOURCE_DIR}/host/base/formatting.cpp
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${fmt__fmt_INCLUDE}"
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
endif()
if(NOT CBTM_COMPILED_FORMATTING)
  target_compile_definitions(fmt::fmt INTERFACE FMT_HEADER_ONLY=1)
endif()
cbtm_dependency(nlohmann_json::nlohmann_json nlohmann/json.hpp nlohmann-json3-dev)
cbtm_dependency(cxxopts::cxxopts cxxopts.hpp libcxxopts-dev)
# <regex> takes five seconds of every file that reads flags; without it cxxopts parses them by itself.
target_compile_definitions(cxxopts::cxxopts INTERFACE CXXOPTS_NO_REGEX=1)
cbtm_dependency(doctest::doctest doctest/doctest.h doctest-dev)
cbtm_dependency(hwy::headers hwy/highway.h libhwy-dev)
cbtm_dependency(xxhash::xxhash xxhash.h libxxhash-dev xxhash)
cbtm_dependency(zlib::zlib zlib.h zlib1g-dev z)
cbtm_dependency(zstd::zstd zstd.h libzstd-dev zstd)
cbtm_dependency(event::core event2/event.h libevent-dev event_core)
