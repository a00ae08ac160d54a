#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// PyTorch files made byte by byte, for what torch.save would never write.

namespace cbtm {

template <typename Number>
std::string bytes_of(Number number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof number);
}

/// A zip of stored members below "archive/". Each is one of `members`, or shares the bytes of the first: `shared` more
/// entries point at it.
inline std::string stored_zip(const std::vector<std::pair<std::string, std::string>>& members, int shared = 0) {
  std::string out, directory;
  int64_t entries = 0;
  const auto checksum = [](const std::string& data) {
    return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()));
  };
  const auto entry = [&](const std::string& name, const std::string& data, uint32_t crc, size_t offset) {
    const auto size = static_cast<uint32_t>(data.size());
    const std::string path = "archive/" + name;
    const std::string middle = std::string(2, '\0') + std::string(2, '\0') + std::string(4, '\0') + bytes_of(crc) +
                               bytes_of(size) + bytes_of(size) + bytes_of(static_cast<uint16_t>(path.size())) +
                               std::string(2, '\0');
    directory += "PK\x01\x02" + std::string(2, '\0') + std::string(2, '\0') + middle + std::string(2, '\0') +
                 std::string(2, '\0') + std::string(2, '\0') + std::string(4, '\0') +
                 bytes_of(static_cast<uint32_t>(offset)) + path;
    ++entries;
    return "PK\x03\x04" + std::string(2, '\0') + middle + path;
  };
  for (const auto& [name, data] : members) {
    const size_t offset = out.size();
    out += entry(name, data, checksum(data), offset) + data;
  }
  const uint32_t first = checksum(members.front().second);
  for (int i = 0; i < shared; ++i) entry("data/" + std::to_string(1000 + i), members.front().second, first, 0);
  const size_t begin = out.size();
  const auto count = static_cast<uint16_t>(entries);
  return out + directory + "PK\x05\x06" + std::string(4, '\0') + bytes_of(count) + bytes_of(count) +
         bytes_of(static_cast<uint32_t>(directory.size())) + bytes_of(static_cast<uint32_t>(begin)) +
         std::string(2, '\0');
}

// Pickle operations, to be put one after the other.
namespace pickle {

inline std::string text(std::string_view value) {
  return "X" + bytes_of(static_cast<uint32_t>(value.size())) + std::string(value);
}
inline std::string integer(int32_t value) { return "J" + bytes_of(value); }
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::string& items) { return "(" + items + "t"; }
inline std::string integers(const std::vector<int32_t>& values) {
  std::string items;
  for (const int32_t value : values) items += integer(value);
  return tuple(items);
}
/// key and value pairs, each already pickled
inline std::string dict(const std::string& items) { return "}(" + items + "u"; }
inline std::string storage(const std::string& type, const std::string& key, int32_t elements) {
  return tuple(text("storage") + global("torch", type) + text(key) + text("cpu") + integer(elements)) + "Q";
}
/// A row-major tensor that is all of its storage.
inline std::string tensor(const std::string& type, const std::string& key, const std::vector<int32_t>& shape) {
  std::vector<int32_t> strides(shape.size());
  int32_t count = 1;
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = count;
    count *= shape[axis];
  }
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(storage(type, key, count) + integer(0) + integers(shape) + integers(strides) + "\x89" +
               global("collections", "OrderedDict") + ")R") +
         "R";
}
inline std::string stream(const std::string& operations) { return "\x80\x02" + operations + "."; }

}  // namespace pickle
}  // namespace cbtm
