# Every dependency is a Debian package; scripts/install-deps.sh installs them all.

find_package(PkgConfig)
if(NOT PkgConfig_FOUND)
  message(FATAL_ERROR "pkg-config is missing. Install it: apt-get install pkg-config (or run scripts/install-deps.sh)")
endif()

# cbtm_package(NAME DEBIAN_PACKAGE): find_package with a message that says what to install.
macro(cbtm_package name debian_package)
  find_package(${name} QUIET)
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "${name} is missing. Install it: apt-get install ${debian_package} (or run scripts/install-deps.sh)")
  endif()
endmacro()

# cbtm_pkg_config(NAME MODULE DEBIAN_PACKAGE STATIC_LIBRARY): PkgConfig::NAME, which links the static archive if there is one.
function(cbtm_pkg_config name module debian_package archive)
  pkg_check_modules(${name} QUIET ${module})
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "${module} is missing. Install it: apt-get install ${debian_package} (or run scripts/install-deps.sh)")
  endif()
  find_library(${name}_ARCHIVE ${archive} HINTS ${${name}_LIBRARY_DIRS})
  add_library(PkgConfig::${name} INTERFACE IMPORTED GLOBAL)
  target_include_directories(PkgConfig::${name} INTERFACE ${${name}_INCLUDE_DIRS})
  if(${name}_ARCHIVE)
    target_link_libraries(PkgConfig::${name} INTERFACE ${${name}_ARCHIVE})
  else()
    target_link_libraries(PkgConfig::${name} INTERFACE ${${name}_LINK_LIBRARIES})
  endif()
endfunction()

cbtm_package(fmt libfmt-dev)
cbtm_package(nlohmann_json nlohmann-json3-dev)
cbtm_package(cxxopts libcxxopts-dev)
cbtm_package(doctest doctest-dev)
cbtm_pkg_config(xxhash libxxhash libxxhash-dev libxxhash.a)
cbtm_pkg_config(zlib zlib zlib1g-dev libz.a)
cbtm_pkg_config(zstd libzstd libzstd-dev libzstd.a)

find_path(HIGHWAY_INCLUDE hwy/highway.h)
if(NOT HIGHWAY_INCLUDE)
  message(FATAL_ERROR "Highway is missing. Install it: apt-get install libhwy-dev (or run scripts/install-deps.sh)")
endif()
