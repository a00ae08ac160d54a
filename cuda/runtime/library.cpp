#include "runtime/library.h"

#include <dlfcn.h>

#include <utility>

#include "cbtm/base/error.h"

namespace cbtm::cuda {

Library::Library(std::string name, const std::string& file, const std::string& need, std::string package)
    : name_(std::move(name)), package_(std::move(package)) {
  for (const std::string& path : {file, "/usr/local/cuda/lib64/" + file, "/usr/local/cuda/lib/" + file})
    if ((library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) return;
  fail(
      "{} is not on this machine, and {}; install NVIDIA's package {} (developer.nvidia.com/cuda-downloads), or set "
      "LD_LIBRARY_PATH to the folder that holds it",
      file, need, package_);
}

void* Library::find_address(const char* function) const {
  void* address = dlsym(library_, function);
  if (address == nullptr) fail("{}: the library found has no {}; install {} or later", name_, function, package_);
  return address;
}

}  // namespace cbtm::cuda
