#pragma once

#include <string>

namespace cbtm::cuda {

/// A shared library that is loaded when it is first needed, so that the binary starts on machines that lack it. Stays
/// loaded.
class Library {
 public:
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
