// safetensors, read and written (docs/opt-format.md, 'safetensors').

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/json.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {
namespace {

constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr int64_t kHeaderMemoryMax = int64_t{1} << 28;  ///< some 300,000 tensors
constexpr size_t kRankMax = 64;                         ///< PyTorch's own limit

/// Types of the format that are not read: name and bits an element.
constexpr std::pair<std::string_view, int64_t> kOtherTypes[] = {
    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U16", 16},        {"U32", 32},
    {"U64", 64},    {"C64", 64},    {"C128", 128},
};

StoredType type_of_name(std::string_view name) {
  constexpr std::array kTypes = {StoredType::f64, StoredType::f32,    StoredType::f16, StoredType::bf16,
                                 StoredType::i64, StoredType::i32,    StoredType::i16, StoredType::i8,
                                 StoredType::u8,  StoredType::boolean};
  for (const StoredType type : kTypes)
    if (name == stored_type_name(type)) return type;
  return StoredType::other;
}

/// Bits an element; 0 for a type that nobody knows.
int64_t bits_of(const StoredTensor& tensor) {
  if (tensor.type != StoredType::other) return 8 * stored_type_bytes(tensor.type);
  for (const auto& [name, bits] : kOtherTypes)
    if (name == tensor.other_type) return bits;
  return 0;
}

Json parse_header(std::string_view text, const std::string& path) {
  if (text.empty() || text.front() != '{')
    fail("{}: not a safetensors file: the header does not start with '{{'", path);
  return parse_json(text, path + ": its header", {.depth = 3, .memory_bytes = kHeaderMemoryMax});
}

/// Reads one entry of the header. `data_bytes`: what follows the header.
StoredTensor tensor_of(const std::string& name, const JsonReader& entry, const std::byte* data, int64_t data_bytes,
                       std::pair<int64_t, int64_t>& range) {
  StoredTensor tensor;
  tensor.name = name;
  const std::string& type = entry.text("dtype");
  tensor.type = type_of_name(type);
  if (tensor.type == StoredType::other) tensor.other_type = shown_text(type);
  tensor.shape = entry.integers("shape", 0);
  const std::vector<int64_t> offsets = entry.integers("data_offsets", 0);
  if (tensor.shape.size() > kRankMax)
    entry.refuse(fmt::format("has {} dimensions; up to {} are read", tensor.shape.size(), kRankMax));
  if (offsets.size() != 2) entry.refuse("needs two data_offsets");
  int64_t count = 1;
  for (const int64_t extent : tensor.shape)
    if (__builtin_mul_overflow(count, extent, &count)) entry.refuse("its element count overflows");
  const auto [begin, end] = range = {offsets[0], offsets[1]};
  if (begin > end || end > data_bytes)
    entry.refuse(fmt::format("its bytes {} to {} do not lie within the {} bytes of data", begin, end, data_bytes));
  const int64_t bits = bits_of(tensor);
  int64_t bits_needed = 0;
  if (__builtin_mul_overflow(count, bits, &bits_needed)) entry.refuse("its size overflows");
  if (bits != 0 && (bits_needed + 7) / 8 != end - begin)
    entry.refuse(fmt::format("its shape needs {} bytes, its offsets give {}", (bits_needed + 7) / 8, end - begin));
  tensor.data = data + begin;
  tensor.strides.resize(tensor.shape.size());
  int64_t stride = 1;
  for (size_t axis = tensor.shape.size(); axis-- > 0;) {
    tensor.strides[axis] = stride;
    stride *= tensor.shape[axis];
  }
  return tensor;
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) {
  TensorFile result;
  result.path_ = path;
  result.file_ = std::make_shared<const MappedFile>(path);
  const std::string shown = path.string();
  const MappedFile& file = *result.file_;
  if (const std::string foreign = foreign_content(file.text()); !foreign.empty())
    fail("{}: not a safetensors file: {}", shown, foreign);
  if (file.text().starts_with("PK\x03\x04") || file.text().starts_with("\x80\x02"))
    fail("{}: not a safetensors file: it is one of PyTorch; name it pytorch_model.bin", shown);
  if (file.size() < 8) fail("{}: not a safetensors file: shorter than 8 bytes", shown);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.bytes().data(), 8);
  if (header_bytes > kHeaderBytesMax)
    fail("{}: not a safetensors file: its header's length {} is above the limit of {}", shown, header_bytes,
         kHeaderBytesMax);
  if (8 + header_bytes > file.size())
    fail("{}: cut off: its header of {} bytes passes the end of the file ({} bytes); copy or download it again", shown,
         header_bytes, file.size());
  const Json header = parse_header(file.text().substr(8, header_bytes), shown);
  const JsonReader read(header, shown);
  const std::byte* data = file.bytes().data() + 8 + header_bytes;
  const int64_t data_bytes = static_cast<int64_t>(file.size() - 8 - header_bytes);

  std::vector<std::pair<int64_t, int64_t>> ranges;
  std::vector<StoredTensor> tensors;
  bool any_known = false;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      const JsonReader metadata = read.object(name);
      for (const auto& [key, entry] : value.items()) result.metadata_[key] = metadata.text(key);
      continue;
    }
    tensors.push_back(tensor_of(name, read.object(name), data, data_bytes, ranges.emplace_back()));
    any_known |= bits_of(tensors.back()) != 0;
  }
  if (!any_known && !tensors.empty())
    fail("{}: tensor '{}' holds {}, which is not read", shown, shown_text(tensors[0].name), tensors[0].other_type);
  std::sort(ranges.begin(), ranges.end());
  int64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered)
      fail("{}: damaged: its tensors overlap or leave a hole at byte {} of the data", shown, std::min(begin, covered));
    covered = end;
  }
  if (covered != data_bytes) fail("{}: {} bytes follow the last tensor", shown, data_bytes - covered);
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::tie(a.data, a.name) < std::tie(b.data, b.name);
  });
  result.set_tensors(std::move(tensors));
  return result;
}

void write_safetensors(const std::filesystem::path& path, std::span<const OutputTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const OutputTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", stored_type_name(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  // Data starts at a multiple of 64 bytes.
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()) + 8, 64) - 8), ' ');
  const uint64_t header_bytes = text.size();
  AtomicFile file(path);
  file.write(&header_bytes, 8);
  file.write(text);
  for (const OutputTensor& tensor : tensors) {
    const auto bytes = static_cast<size_t>(tensor.bytes());
    if (!tensor.fill) {
      file.write(tensor.data, bytes);
      continue;
    }
    std::vector<std::byte> elements(bytes);
    tensor.fill(elements.data());
    file.write(elements.data(), bytes);
  }
  file.commit();
}

}  // namespace cbtm
