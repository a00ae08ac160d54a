#pragma once

#include <string>

namespace cbtm::cuda {

/// Where a library lies that the loader does not find by itself: in the folders of $CBTM_CUDA_LIBRARIES (with colons
/// between; throws Error if it is in none of them), else in the toolkit's, or those of NVIDIA's Python packages in a
/// virtual environment, ~/.local or the system; empty if in none.
std::string library_path(const std::string& file);

/// A shared library that is loaded when it is first needed, so that the binary starts on machines that lack it. Stays
/// loaded.
class Library {
 public:
  /// Looks where CBTM_CUDA_LIBRARIES says, else where the loader does, else in library_path().
  /// `file`: "libnccl.so.2"; `need`: what for, a sentence; `package`: NVIDIA's. Throws Error that names them if it is
  /// not there.
  Library(std::string name, const std::string& file, const std::string& need, std::string package);

  /// Throws Error if the library lacks the function.
  template <typename Function>
  Function* find(const char* function) const {
    return reinterpret_cast<Function*>(find_address(function));
  }

 private:
  void* find_address(const char* function) const;

  std::string name_, package_;
  void* library_ = nullptr;
};

}  // namespace cbtm::cuda
