#include "tests/fuzz/repair.h"

#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "cbtm/base/json.h"
#include "tests/fuzz/input_files.h"

namespace cbtm::fuzz {
namespace {

template <typename Number>
Number number_at(const std::string& bytes, size_t place) {
  Number value{};
  if (place <= bytes.size() && bytes.size() - place >= sizeof value)
    std::memcpy(&value, bytes.data() + place, sizeof value);
  return value;
}

template <typename Number>
void set_number(std::string& bytes, size_t place, Number value) {
  if (place <= bytes.size() && bytes.size() - place >= sizeof value)
    std::memcpy(bytes.data() + place, &value, sizeof value);
}

uint32_t checksum(std::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

/// The end of the JSON object that begins at `begin`, or the end of the bytes.
size_t object_end(std::string_view bytes, size_t begin) {
  int64_t depth = 0;
  bool in_string = false;
  for (size_t place = begin; place < bytes.size(); ++place) {
    const char byte = bytes[place];
    if (in_string) {
      if (byte == '\\') ++place;
      if (byte == '"') in_string = false;
    } else if (byte == '"') {
      in_string = true;
    } else if (byte == '{' || byte == '[') {
      ++depth;
    } else if ((byte == '}' || byte == ']') && --depth == 0) {
      return place + 1;
    }
  }
  return bytes.size();
}

/// The highest end of data that a safetensors header names, 0 if it cannot be told.
uint64_t data_end(std::string_view header) {
  const Json json = Json::parse(header, nullptr, /*allow_exceptions=*/false);
  uint64_t end = 0;
  if (!json.is_object()) return 0;
  for (const Json& tensor : json) {
    if (!tensor.is_object() || !tensor.contains("data_offsets")) continue;
    const Json& offsets = tensor["data_offsets"];
    if (offsets.is_array() && offsets.size() == 2 && offsets[1].is_number_unsigned())
      end = std::max(end, offsets[1].get<uint64_t>());
  }
  return end;
}

/// Bytes of a gzip header, 0 if this is none.
size_t gzip_header_bytes(std::string_view bytes) {
  if (bytes.size() < 18 || bytes[0] != '\x1f' || bytes[1] != '\x8b' || bytes[2] != 8) return 0;
  const auto flags = static_cast<uint8_t>(bytes[3]);
  size_t place = 10;
  if ((flags & 4) != 0) place += 2 + static_cast<uint8_t>(bytes[place]) + 256U * static_cast<uint8_t>(bytes[place + 1]);
  for (const int text : {8, 16}) {  // name, comment
    if ((flags & text) == 0) continue;
    const size_t end = place < bytes.size() ? bytes.find('\0', place) : std::string_view::npos;
    if (end == std::string_view::npos) return 0;
    place = end + 1;
  }
  if ((flags & 2) != 0) place += 2;
  return place;
}

}  // namespace

std::string repair_zip(std::string_view bytes) {
  constexpr size_t kEntriesMax = 1000;
  std::string zip(bytes);
  if (!zip.starts_with("PK")) return zip;
  const size_t end = zip.rfind("PK\5\6");
  if (end == std::string::npos) return zip;
  size_t entry = number_at<uint32_t>(zip, end + 16);
  for (size_t count = 0; count < kEntriesMax && number_at<uint32_t>(zip, entry) == 0x02014b50; ++count) {
    const size_t size = number_at<uint32_t>(zip, entry + 20);
    const size_t header = number_at<uint32_t>(zip, entry + 42);
    const size_t begin = header + 30 + number_at<uint16_t>(zip, header + 26) + number_at<uint16_t>(zip, header + 28);
    if (begin <= zip.size() && size <= zip.size() - begin) {
      const uint32_t sum = checksum(std::string_view(zip).substr(begin, size));
      set_number(zip, entry + 16, sum);
      set_number(zip, header + 14, sum);
    }
    entry += 46U + number_at<uint16_t>(zip, entry + 28) + number_at<uint16_t>(zip, entry + 30) +
             number_at<uint16_t>(zip, entry + 32);
  }
  return zip;
}

std::string repair_safetensors(std::string_view bytes) {
  constexpr uint64_t kDataMax = 100'000;
  std::string file(bytes);
  if (file.size() < 10 || file[8] != '{') return file;
  const size_t end = object_end(file, 8);
  set_number(file, 0, static_cast<uint64_t>(end - 8));
  if (const uint64_t data = data_end(std::string_view(file).substr(8, end - 8)); data > 0 && data <= kDataMax)
    file.resize(end + data, '\0');
  return file;
}

std::string repair_gzip(std::string_view bytes) {
  constexpr size_t kUnpackedMax = 1 << 20;
  std::string file(bytes);
  const size_t header = gzip_header_bytes(bytes);
  if (header == 0 || header >= bytes.size()) return file;
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return file;
  const std::unique_ptr<z_stream, int (*)(z_stream*)> closing(&stream, inflateEnd);
  std::vector<char> unpacked(kUnpackedMax);
  stream.next_in = reinterpret_cast<Bytef*>(file.data() + header);
  stream.avail_in = static_cast<uInt>(file.size() - header);
  stream.next_out = reinterpret_cast<Bytef*>(unpacked.data());
  stream.avail_out = static_cast<uInt>(unpacked.size());
  if (inflate(&stream, Z_FINISH) != Z_STREAM_END) return file;
  const size_t trailer = file.size() - stream.avail_in;
  set_number(file, trailer, checksum({unpacked.data(), stream.total_out}));
  set_number(file, trailer + 4, static_cast<uint32_t>(stream.total_out));
  return file;
}

std::string repair_parts(std::string_view input) {
  std::vector<Part> parts = split_parts(input);
  if (parts.empty()) return std::string(input);
  for (Part& part : parts) {
    if (part.name.ends_with(".safetensors")) part.contents = repair_safetensors(part.contents);
    if (part.name.ends_with(".bin")) part.contents = repair_zip(part.contents);
    if (part.name.ends_with(".gz")) part.contents = repair_gzip(part.contents);
  }
  return join_parts(parts);
}

}  // namespace cbtm::fuzz
