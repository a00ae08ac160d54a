#include "corpus/file_format.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kUnpack = "which is not read; unpack it first";
constexpr std::string_view kConvert = "which is not read; convert it to JSON lines first";
constexpr std::string_view kNoText = "which holds no text that can be read; leave it out";
constexpr std::string_view kRecode = "which is not read; convert it to UTF-8 first (iconv)";

struct Signature {
  std::string_view bytes;
  size_t offset;
  std::string_view name;
  std::string_view advice;
};

// clang-format off
constexpr Signature kSignatures[] = {
    {"\x31\x41\x59\x26\x53\x59"sv, 4, "bzip2", kUnpack},
    {"\x17\x72\x45\x38\x50\x90"sv, 4, "bzip2", kUnpack},
    {"\xfd""7zXZ\0"sv, 0, "xz", kUnpack},
    {"\x04\x22\x4d\x18"sv, 0, "lz4", kUnpack},
    {"\x02\x21\x4c\x18"sv, 0, "lz4", kUnpack},
    {"LZIP\x01"sv, 0, "lzip", kUnpack},
    {"\x89LZO\0\r\n\x1a\n"sv, 0, "lzop", kUnpack},
    {"\xff\x06\0\0sNaPpY"sv, 0, "snappy", kUnpack},
    {"\x1f\x8b\x08"sv, 0, "gzip", kUnpack},
    {"\x28\xb5\x2f\xfd"sv, 0, "zstd", kUnpack},
    {"\x1f\x9d"sv, 0, "compress (.Z)", kUnpack},
    {"\x1f\xa0"sv, 0, "compress (.Z)", kUnpack},
    {"PK\x03\x04"sv, 0, "a zip archive", kUnpack},
    {"PK\x05\x06"sv, 0, "a zip archive", kUnpack},
    {"PK\x07\x08"sv, 0, "a zip archive", kUnpack},
    {"7z\xbc\xaf\x27\x1c"sv, 0, "a 7z archive", kUnpack},
    {"Rar!\x1a\x07"sv, 0, "a rar archive", kUnpack},
    {"ustar"sv, 257, "a tar archive", kUnpack},
    {"!<arch>\n"sv, 0, "an ar archive", kUnpack},
    {"MSCF\0\0\0\0"sv, 0, "a cab archive", kUnpack},
    {"PAR1"sv, 0, "parquet", kConvert},
    {"ARROW1\0\0"sv, 0, "arrow", kConvert},
    {"FEA1"sv, 0, "feather", kConvert},
    {"Obj\x01"sv, 0, "avro", kConvert},
    {"ORC"sv, 0, "orc", kConvert},
    {"\x89HDF\r\n\x1a\n"sv, 0, "HDF5", kConvert},
    {"SQLite format 3\0"sv, 0, "an SQLite database", kConvert},
    {"\x93NUMPY"sv, 0, "a NumPy array", kConvert},
    {"%PDF-"sv, 0, "PDF", kConvert},
    {"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"sv, 0, "a Microsoft Office file", kConvert},
    {"\x89PNG\r\n\x1a\n"sv, 0, "a PNG image", kNoText},
    {"\xff\xd8\xff"sv, 0, "a JPEG image", kNoText},
    {"GIF87a"sv, 0, "a GIF image", kNoText},
    {"GIF89a"sv, 0, "a GIF image", kNoText},
    {"II*\0"sv, 0, "a TIFF image", kNoText},
    {"MM\0*"sv, 0, "a TIFF image", kNoText},
    {"WEBPVP8"sv, 8, "a WebP image", kNoText},
    {"\0\0\x01\0"sv, 0, "an icon", kNoText},
    {"WAVEfmt"sv, 8, "a sound file", kNoText},
    {"OggS\0"sv, 0, "a sound file", kNoText},
    {"fLaC\0"sv, 0, "a sound file", kNoText},
    {"ID3\x03"sv, 0, "a sound file", kNoText},
    {"ID3\x04"sv, 0, "a sound file", kNoText},
    {"ftypisom"sv, 4, "a video", kNoText},
    {"ftypmp4"sv, 4, "a video", kNoText},
    {"\x1a\x45\xdf\xa3"sv, 0, "a video", kNoText},
    {"wOFF\0"sv, 0, "a font", kNoText},
    {"wOF2\0"sv, 0, "a font", kNoText},
    {"\x7f""ELF"sv, 0, "a program (ELF)", kNoText},
    {"\xcf\xfa\xed\xfe"sv, 0, "a program (Mach-O)", kNoText},
    {"\xca\xfe\xba\xbe"sv, 0, "a program (Java or Mach-O)", kNoText},
    {"\0asm\x01"sv, 0, "a program (WebAssembly)", kNoText},
    {"version https://git-lfs.github.com/spec/v1\n"sv, 0, "a Git LFS pointer in place of the file",
     "fetch the file with git lfs pull"},
    {"\xff\xfe\0\0"sv, 0, "UTF-32", kRecode},
    {"\0\0\xfe\xff"sv, 0, "UTF-32", kRecode},
    {"\xff\xfe"sv, 0, "UTF-16", kRecode},
    {"\xfe\xff"sv, 0, "UTF-16", kRecode},
};
// clang-format on

bool is_printable(char c) { return c >= 0x20 && c < 0x7f; }

/// A text may begin with the letters GIF89a; then it goes on as text.
bool could_be_words(const Signature& signature) {
  return signature.name != "PDF" && std::all_of(signature.bytes.begin(), signature.bytes.end(), is_printable);
}
bool is_plain_text(std::string_view bytes) {
  const auto is_control = [](char c) { return c >= 0 && c < '\b'; };
  const size_t whole = bytes.size() - incomplete_utf8_tail(bytes);
  return std::none_of(bytes.begin(), bytes.end(), is_control) &&
         find_invalid_utf8(bytes.substr(0, whole)) == std::string_view::npos;
}

std::string named(std::string_view name, std::string_view advice) {
  return std::string(name) + ", " + std::string(advice);
}

/// Tar archives of before 1988 have no signature, but a sum of their first 512 bytes in octal at byte 148.
bool is_old_tar(std::string_view bytes) {
  constexpr size_t kSumBegin = 148;
  constexpr size_t kSumEnd = 156;
  if (bytes.size() < kFormatBytes || bytes[0] == '\0') return false;
  int64_t sum = 0;
  for (size_t i = 0; i < kFormatBytes; ++i) sum += i >= kSumBegin && i < kSumEnd ? ' ' : static_cast<uint8_t>(bytes[i]);
  const std::string octal(bytes.substr(kSumBegin, kSumEnd - kSumBegin));
  char* end = nullptr;
  const auto written = std::strtoll(octal.c_str(), &end, 8);
  return end != octal.c_str() && written == sum;
}

/// A stream of Arrow messages, as `datasets` saves them: FFFFFFFF, then the length of the first.
bool is_arrow_stream(std::string_view bytes) {
  return bytes.size() >= 12 && bytes.substr(0, 4) == "\xff\xff\xff\xff" && bytes[6] == '\0' && bytes[7] == '\0' &&
         (static_cast<uint8_t>(bytes[4]) % 8) == 0;
}

bool is_pickle(std::string_view bytes) {
  return bytes.size() >= 12 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5;
}

bool is_lzma(std::string_view bytes) {
  return bytes.size() >= 13 && bytes.substr(0, 3) == "\x5d\0\0"sv &&
         bytes.substr(5, 8) == "\xff\xff\xff\xff\xff\xff\xff\xff"sv;
}

/// UTF-16 without its mark: of mostly Latin text every other byte is zero.
bool is_bare_utf16(std::string_view bytes) {
  int64_t zeros[2] = {0, 0};
  for (size_t i = 0; i < bytes.size(); ++i) zeros[i % 2] += bytes[i] == '\0' ? 1 : 0;
  const auto half = static_cast<int64_t>(bytes.size() / 2);
  const auto [fewer, more] = std::minmax(zeros[0], zeros[1]);
  return half >= 2 && more * 10 >= half * 7 && fewer * 20 <= half;
}

}  // namespace

std::string unread_format(std::string_view first_bytes) {
  const std::string_view bytes = first_bytes.substr(0, kFormatBytes);
  for (const Signature& signature : kSignatures)
    if (bytes.size() >= signature.offset + signature.bytes.size() &&
        bytes.substr(signature.offset, signature.bytes.size()) == signature.bytes &&
        (signature.name != "bzip2" || bytes.starts_with("BZh")) &&
        (!could_be_words(signature) || !is_plain_text(bytes)))
      return named(signature.name, signature.advice);
  if (is_old_tar(bytes)) return named("a tar archive", kUnpack);
  if (is_arrow_stream(bytes)) return named("arrow", kConvert);
  if (is_lzma(bytes)) return named("lzma", kUnpack);
  if (is_pickle(bytes)) return named("a Python pickle", kConvert);
  if (is_bare_utf16(bytes)) return named("UTF-16 without its mark, or binary data", kRecode);
  return "";
}

size_t utf8_mark_bytes(std::string_view first_bytes) { return first_bytes.starts_with("\xef\xbb\xbf") ? 3 : 0; }

}  // namespace cbtm
