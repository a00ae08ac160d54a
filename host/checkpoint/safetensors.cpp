// safetensors, read and written (opt-format.md section 9.2).

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/checkpoint/tensor_file.h"

namespace cbtm {
namespace {

constexpr uint64_t kHeaderBytesMax = 100'000'000;

StoredType type_of_name(const std::string& name, const std::string& where) {
  constexpr std::array kTypes = {StoredType::f64, StoredType::f32,    StoredType::f16, StoredType::bf16,
                                 StoredType::i64, StoredType::i32,    StoredType::i16, StoredType::i8,
                                 StoredType::u8,  StoredType::boolean};
  for (const StoredType type : kTypes)
    if (name == stored_type_name(type)) return type;
  fail("{}: unknown dtype '{}'", where, name);
}

/// Parses the header, refusing what the format forbids but a JSON parser lets pass: duplicate keys, deep nesting.
Json parse_header(std::string_view text, const std::string& path) {
  if (text.empty() || text.front() != '{')
    fail("{}: not a safetensors file: the header does not start with '{{'", path);
  std::vector<std::set<std::string>> keys(4);
  const Json::parser_callback_t watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > 3) fail("{}: the header is nested too deeply", path);
    if (event == Json::parse_event_t::object_start) keys[static_cast<size_t>(depth)].clear();
    if (event == Json::parse_event_t::key &&
        !keys[static_cast<size_t>(depth) - 1].insert(value.get<std::string>()).second)
      fail("{}: the header names '{}' twice", path, value.get<std::string>());
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    fail("{}: the header is not valid JSON: {}", path, error.what());
  }
}

int64_t non_negative(const Json& value, const std::string& where, const char* what) {
  if (!value.is_number_integer() ||
      (value.is_number_integer() && !value.is_number_unsigned() && value.get<int64_t>() < 0) ||
      (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)))
    fail("{}: {} is {}, not a whole number from 0 up", where, what, value.dump());
  return value.get<int64_t>();
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) {
  TensorFile result;
  result.path_ = path;
  result.file_ = std::make_shared<const MappedFile>(path);
  const std::string shown = path.string();
  const MappedFile& file = *result.file_;
  if (file.size() < 8) fail("{}: not a safetensors file: shorter than 8 bytes", shown);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.bytes().data(), 8);
  if (header_bytes > kHeaderBytesMax)
    fail("{}: header length {} is above the limit of {}", shown, header_bytes, kHeaderBytesMax);
  if (8 + header_bytes > file.size())
    fail("{}: header length {} passes the end of the file ({} bytes)", shown, header_bytes, file.size());
  const Json header = parse_header(file.text().substr(8, header_bytes), shown);
  if (!header.is_object()) fail("{}: the header is not a JSON object", shown);
  const std::byte* data = file.bytes().data() + 8 + header_bytes;
  const int64_t data_bytes = static_cast<int64_t>(file.size() - 8 - header_bytes);

  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) fail("{}: __metadata__ is not an object", shown);
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail("{}: __metadata__ '{}' is not a string", shown, key);
        result.metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    const std::string where = fmt::format("{}: tensor '{}'", shown, name);
    if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
      fail("{}: needs dtype, shape and data_offsets", where);
    if (!entry["dtype"].is_string() || !entry["shape"].is_array() || !entry["data_offsets"].is_array() ||
        entry["data_offsets"].size() != 2)
      fail("{}: dtype, shape or data_offsets has the wrong form", where);
    StoredTensor tensor;
    tensor.name = name;
    tensor.type = type_of_name(entry["dtype"].get<std::string>(), where);
    int64_t count = 1;
    for (const Json& extent : entry["shape"]) {
      tensor.shape.push_back(non_negative(extent, where, "a dimension"));
      if (__builtin_mul_overflow(count, tensor.shape.back(), &count)) fail("{}: its element count overflows", where);
    }
    int64_t bytes = 0;
    if (__builtin_mul_overflow(count, stored_type_bytes(tensor.type), &bytes)) fail("{}: its size overflows", where);
    const int64_t begin = non_negative(entry["data_offsets"][0], where, "an offset");
    const int64_t end = non_negative(entry["data_offsets"][1], where, "an offset");
    if (begin > end || end > data_bytes)
      fail("{}: its bytes {} to {} do not lie within the {} bytes of data", where, begin, end, data_bytes);
    if (end - begin != bytes) fail("{}: its shape needs {} bytes, its offsets give {}", where, bytes, end - begin);
    tensor.data = data + begin;
    tensor.strides.resize(tensor.shape.size());
    int64_t stride = 1;
    for (size_t axis = tensor.shape.size(); axis-- > 0;) {
      tensor.strides[axis] = stride;
      stride *= tensor.shape[axis];
    }
    ranges.emplace_back(begin, end);
    result.tensors_.push_back(std::move(tensor));
  }
  std::sort(ranges.begin(), ranges.end());
  int64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered)
      fail("{}: tensors overlap or leave a hole at byte {} of the data", shown, std::min(begin, covered));
    covered = end;
  }
  if (covered != data_bytes) fail("{}: {} bytes follow the last tensor", shown, data_bytes - covered);
  std::sort(result.tensors_.begin(), result.tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::tie(a.data, a.name) < std::tie(b.data, b.name);
  });
  return result;
}

void write_safetensors(const std::filesystem::path& path, std::span<const OutputTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  std::vector<int64_t> sizes;
  for (const OutputTensor& tensor : tensors) {
    int64_t bytes = stored_type_bytes(tensor.type);
    for (const int64_t extent : tensor.shape) bytes *= extent;
    header[tensor.name] = {
        {"dtype", stored_type_name(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    sizes.push_back(bytes);
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');  // data starts at a multiple of 64 bytes
  const uint64_t header_bytes = text.size();
  AtomicFile file(path);
  file.write(&header_bytes, 8);
  file.write(text);
  for (size_t i = 0; i < tensors.size(); ++i) file.write(tensors[i].data, static_cast<size_t>(sizes[i]));
  file.commit();
}

}  // namespace cbtm
