#pragma once

#include <filesystem>
#include <string_view>

namespace cbtm {

/// A directory of a name that nobody else has, in the one for temporary files (TMPDIR), removed with this object. What
/// is mapped from its files stays. A signal that ends the process leaves it: see install_stop_signals.
class ScratchDirectory {
 public:
  /// "cbtm-NAME-" and six characters. Throws Error that names TMPDIR.
  explicit ScratchDirectory(std::string_view name);
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace cbtm
