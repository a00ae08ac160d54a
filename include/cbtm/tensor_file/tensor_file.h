#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cbtm/base/mapped_file.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

/// Element types that tensor files hold. `other`: one that is not read (float8, complex, ...), only named.
enum class StoredType : uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean, other };
int64_t stored_type_bytes(StoredType type);     ///< 0 for `other`
const char* stored_type_name(StoredType type);  ///< as safetensors names it: "F32"
bool is_floating(StoredType type);
StoredType stored_type_of(DType dtype);

/// One tensor within a mapped file.
struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;     ///< in elements; checked to stay within the storage
  const std::byte* data = nullptr;  ///< first element; no alignment is promised
  std::string other_type;           ///< what the file calls the type, if it is `other`

  /// stored_type_name, or the file's name of another type.
  std::string type_name() const;
  int64_t size() const;
  bool contiguous() const;
  /// The elements in row-major order as `Element` (float, double, int64_t, int32_t); numeric types convert. There are
  /// never more of them than the file holds. Throws Error for a type that is not read.
  template <typename Element>
  std::vector<Element> values() const;
};

/// All tensors of one file, at most 64 dimensions each; the mapping lives as long as this does (movable, shared
/// ownership of the mapping).
class TensorFile {
 public:
  TensorFile(TensorFile&&) = default;
  TensorFile& operator=(TensorFile&&) = default;

  /// safetensors (by its name's end), else a PyTorch file: zip or legacy stream, read by an interpreter of the few
  /// pickle operations that state dicts use, which can run nothing (docs/opt-format.md, 'Checkpoint files'). Throws
  /// Error in one line naming the file and what is wrong with it. Tensors of types that are not read do not refuse the
  /// file.
  static TensorFile open(const std::filesystem::path& path);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  /// Null if there is none of that name.
  const StoredTensor* find(std::string_view name) const;
  /// Throws Error if there is none of that name, or its type is not read.
  const StoredTensor& at(std::string_view name) const;
  /// Entries of a PyTorch file that would be tensors if something were run, or repeat their elements: name -> why they
  /// are not among tensors().
  const std::map<std::string, std::string, std::less<>>& unreadable() const { return unreadable_; }
  const std::filesystem::path& path() const { return path_; }
  /// safetensors' __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  friend TensorFile read_safetensors(const std::filesystem::path& path);
  friend TensorFile read_torch_file(const std::filesystem::path& path);

  TensorFile() = default;
  void set_tensors(std::vector<StoredTensor> tensors);

  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, size_t> places_;  ///< by the names within tensors_, which move with it
  std::map<std::string, std::string, std::less<>> unreadable_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor to write: `data` holds its elements, row-major, or `fill` writes them into memory for as long as they are
/// written to the file, so that of such tensors one at a time is in memory.
struct OutputTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  std::function<void(std::byte* elements)> fill{};

  int64_t bytes() const;
};

/// Writes a safetensors file beside `path` and renames it there; tensors lie in the order given. Every tensor's bytes
/// start at a multiple of its element size when the order goes from larger to smaller elements.
void write_safetensors(const std::filesystem::path& path, std::span<const OutputTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace cbtm
