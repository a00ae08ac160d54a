#include "runtime/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "cbtm/base/error.h"

namespace cbtm::cuda {
namespace {

namespace fs = std::filesystem;

/// The folders directly in `folder`, in the order of their names; none if it cannot be read.
std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (entry->is_directory(error)) found.push_back(entry->path());
  std::sort(found.begin(), found.end());
  return found;
}

/// `folders` where NVIDIA's Python packages put their libraries: nvidia/NAME/lib.
void add_python_packages(const fs::path& site_packages, std::vector<fs::path>& folders) {
  for (const fs::path& package : folders_in(site_packages / "nvidia")) folders.push_back(package / "lib");
}

/// Folders to look in after the loader's own, the likeliest first.
std::vector<fs::path> known_folders() {
  std::vector<fs::path> folders = {"/usr/local/cuda/lib64", "/usr/local/cuda/lib"};
  const auto environment = [](const char* name) {
    return fs::path(std::getenv(name) != nullptr ? std::getenv(name) : "");
  };
  std::vector<fs::path> pythons;  // each with lib/pythonX.Y/site-packages
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const fs::path prefix = environment(name); !prefix.empty()) {
      pythons.push_back(prefix);
      folders.push_back(prefix / "lib");
    }
  if (const fs::path home = environment("HOME"); !home.empty()) pythons.push_back(home / ".local");
  pythons.insert(pythons.end(), {"/usr/local", "/usr", "/opt/conda"});
  for (const fs::path& prefix : pythons)
    for (const fs::path& version : folders_in(prefix / "lib"))
      if (version.filename().string().starts_with("python"))
        for (const char* packages : {"site-packages", "dist-packages"})
          add_python_packages(version / packages, folders);
  return folders;
}

}  // namespace

std::string library_path(const std::string& file) {
  if (const char* chosen = std::getenv("CBTM_CUDA_LIBRARIES"); chosen != nullptr && *chosen != 0) {
    const std::string folders = chosen;
    for (size_t begin = 0; begin <= folders.size();) {
      const size_t end = std::min(folders.find(':', begin), folders.size());
      const std::string folder = folders.substr(begin, end - begin);
      const fs::path path = fs::path(folder) / file;
      std::error_code error;
      if (!folder.empty() && fs::exists(path, error)) return path;
      begin = end + 1;
    }
    fail("CBTM_CUDA_LIBRARIES={}: holds no {}; name the folders of NVIDIA's libraries, with colons between", folders,
         file);
  }
  for (const fs::path& folder : known_folders()) {
    std::error_code error;
    if (fs::exists(folder / file, error)) return folder / file;
  }
  return {};
}

Library::Library(std::string name, const std::string& file, const std::string& need, std::string package)
    : name_(std::move(name)), package_(std::move(package)) {
  const char* chosen = std::getenv("CBTM_CUDA_LIBRARIES");
  if (chosen == nullptr || *chosen == 0)
    if ((library_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) return;
  const std::string path = library_path(file);
  if (!path.empty()) {
    if ((library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) return;
    fail("{}: cannot be loaded: {}; name other folders with CBTM_CUDA_LIBRARIES", path, dlerror());
  }
  fail(
      "{} is not on this machine, and {}; install NVIDIA's package {} (developer.nvidia.com/cuda-downloads), or name "
      "the "
      "folder that holds it with CBTM_CUDA_LIBRARIES (of a Python package: site-packages/nvidia/*/lib)",
      file, need, package_);
}

void* Library::find_address(const char* function) const {
  void* address = dlsym(library_, function);
  if (address == nullptr) fail("{}: the library found has no {}; install {} or later", name_, function, package_);
  return address;
}

}  // namespace cbtm::cuda
