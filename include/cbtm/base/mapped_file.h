#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace cbtm {

/// A file that is mapped read-only into memory while the object lives. An empty file gives an empty span. Throws Error
/// naming the file if it cannot be opened or mapped, or is not a regular file (a pipe is not waited for).
///
/// If a page cannot be read later, because the file became shorter or its disk failed, the process ends with exit code
/// 1 and a line on stderr that names the file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace cbtm
