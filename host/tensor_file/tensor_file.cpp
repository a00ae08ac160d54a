#include "cbtm/tensor_file/tensor_file.h"

#include <cstring>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"

namespace cbtm {

TensorFile read_safetensors(const std::filesystem::path& path);
TensorFile read_torch_file(const std::filesystem::path& path);

int64_t stored_type_bytes(StoredType type) {
  switch (type) {
    case StoredType::f64:
    case StoredType::i64: return 8;
    case StoredType::f32:
    case StoredType::i32: return 4;
    case StoredType::f16:
    case StoredType::bf16:
    case StoredType::i16: return 2;
    case StoredType::i8:
    case StoredType::u8:
    case StoredType::boolean: return 1;
    case StoredType::other: return 0;
  }
  return 0;
}

const char* stored_type_name(StoredType type) {
  switch (type) {
    case StoredType::f64: return "F64";
    case StoredType::f32: return "F32";
    case StoredType::f16: return "F16";
    case StoredType::bf16: return "BF16";
    case StoredType::i64: return "I64";
    case StoredType::i32: return "I32";
    case StoredType::i16: return "I16";
    case StoredType::i8: return "I8";
    case StoredType::u8: return "U8";
    case StoredType::boolean: return "BOOL";
    case StoredType::other: return "another type";
  }
  return "?";
}

bool is_floating(StoredType type) {
  return type == StoredType::f64 || type == StoredType::f32 || type == StoredType::f16 || type == StoredType::bf16;
}

StoredType stored_type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return StoredType::f32;
    case DType::bf16: return StoredType::bf16;
    case DType::f16: return StoredType::f16;
    case DType::f64: return StoredType::f64;
    case DType::i64: return StoredType::i64;
    case DType::i32: return StoredType::i32;
    case DType::i8: return StoredType::i8;
    case DType::u8: return StoredType::u8;
  }
  return StoredType::u8;
}

std::string StoredTensor::type_name() const { return type == StoredType::other ? other_type : stored_type_name(type); }

int64_t OutputTensor::bytes() const {
  int64_t bytes = stored_type_bytes(type);
  for (const int64_t extent : shape) bytes *= extent;
  return bytes;
}

int64_t StoredTensor::size() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

bool StoredTensor::contiguous() const {
  int64_t expected = 1;
  for (size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= shape[axis];
  }
  return true;
}

namespace {

template <typename Stored>
Stored load(const std::byte* address) {
  Stored value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

template <typename Element, typename Stored>
void copy_elements(const StoredTensor& tensor, std::vector<Element>& out) {
  const size_t rank = tensor.shape.size();
  std::vector<int64_t> index(rank, 0);
  int64_t offset = 0;
  for (Element& value : out) {
    const Stored stored = load<Stored>(tensor.data + offset * static_cast<int64_t>(sizeof(Stored)));
    if constexpr (std::is_same_v<Stored, f16> || std::is_same_v<Stored, bf16>) {
      value = static_cast<Element>(to_float(stored));
    } else {
      value = static_cast<Element>(stored);
    }
    for (size_t axis = rank; axis-- > 0;) {
      offset += tensor.strides[axis];
      if (++index[axis] < tensor.shape[axis]) break;
      offset -= tensor.strides[axis] * tensor.shape[axis];
      index[axis] = 0;
    }
  }
}

}  // namespace

template <typename Element>
std::vector<Element> StoredTensor::values() const {
  if (type == StoredType::other) fail("tensor '{}' holds {}, which is not read", shown_text(name), other_type);
  std::vector<Element> out(static_cast<size_t>(size()));
  if (out.empty()) return out;
  switch (type) {
    case StoredType::f64: copy_elements<Element, double>(*this, out); break;
    case StoredType::f32: copy_elements<Element, float>(*this, out); break;
    case StoredType::f16: copy_elements<Element, f16>(*this, out); break;
    case StoredType::bf16: copy_elements<Element, bf16>(*this, out); break;
    case StoredType::i64: copy_elements<Element, int64_t>(*this, out); break;
    case StoredType::i32: copy_elements<Element, int32_t>(*this, out); break;
    case StoredType::i16: copy_elements<Element, int16_t>(*this, out); break;
    case StoredType::i8: copy_elements<Element, int8_t>(*this, out); break;
    case StoredType::u8:
    case StoredType::boolean: copy_elements<Element, uint8_t>(*this, out); break;
    case StoredType::other: break;
  }
  return out;
}
template std::vector<float> StoredTensor::values<float>() const;
template std::vector<double> StoredTensor::values<double>() const;
template std::vector<int64_t> StoredTensor::values<int64_t>() const;
template std::vector<int32_t> StoredTensor::values<int32_t>() const;

TensorFile TensorFile::open(const std::filesystem::path& path) {
  return path.extension() == ".safetensors" ? read_safetensors(path) : read_torch_file(path);
}

void TensorFile::set_tensors(std::vector<StoredTensor> tensors) {
  tensors_ = std::move(tensors);
  places_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) places_.emplace(tensors_[i].name, i);
}

const StoredTensor* TensorFile::find(std::string_view name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &tensors_[found->second];
}

const StoredTensor& TensorFile::at(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  if (tensor == nullptr) {
    const auto reason = unreadable_.find(name);
    fail("{}: {}", path_.string(),
         reason == unreadable_.end() ? fmt::format("holds no tensor '{}'", name)
                                     : fmt::format("tensor '{}' cannot be read: {}", name, reason->second));
  }
  if (tensor->type == StoredType::other)
    fail("{}: tensor '{}' holds {}, which is not read", path_.string(), name, tensor->other_type);
  return *tensor;
}

}  // namespace cbtm
