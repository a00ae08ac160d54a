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

cbtm_dependency(fmt::fmt-header-only fmt/format.h libfmt-dev)
target_compile_definitions(fmt::fmt-header-only INTERFACE FMT_HEADER_ONLY=1)
cbtm_dependency(nlohmann_json::nlohmann_json nlohmann/json.hpp nlohmann-json3-dev)
cbtm_dependency(cxxopts::cxxopts cxxopts.hpp libcxxopts-dev)
cbtm_dependency(doctest::doctest doctest/doctest.h doctest-dev)
cbtm_dependency(hwy::headers hwy/highway.h libhwy-dev)
cbtm_dependency(xxhash::xxhash xxhash.h libxxhash-dev xxhash)
cbtm_dependency(zlib::zlib zlib.h zlib1g-dev z)
cbtm_dependency(zstd::zstd zstd.h libzstd-dev zstd)
cbtm_dependency(event::core event2/event.h libevent-dev event_core)
