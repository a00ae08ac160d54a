// Compressed files as people's programs write them, damaged ones, and formats that are not read.

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

CorpusOptions strict(const std::filesystem::path& path) {
  return {.paths = {path.string()}, .on_bad_document = OnBadDocument::fail};
}

std::string zstd_with_window(const std::string& text, int window_log) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  // In two pieces: a single one of known size would get a window of that size.
  ZSTD_outBuffer output{out.data(), out.size(), 0};
  ZSTD_inBuffer first{text.data(), text.size() / 2, 0};
  ZSTD_compressStream2(context, &output, &first, ZSTD_e_flush);
  ZSTD_inBuffer second{text.data() + text.size() / 2, text.size() - text.size() / 2, 0};
  ZSTD_compressStream2(context, &output, &second, ZSTD_e_end);
  out.resize(output.pos);
  ZSTD_freeCCtx(context);
  return out;
}

/// Words that hardly compress, so that damage in the middle of the packed bytes loses about half.
std::string random_lines(int count) {
  PhiloxStream random(5, 0);
  std::string lines;
  for (int i = 0; i < count; ++i) {
    lines += "{\"text\": \"";
    for (int word = 0; word < 20; ++word) lines += std::to_string(random.next_below(1'000'000'000)) + " ";
    lines += "\"}\n";
  }
  return lines;
}

TEST_CASE("zstd with skippable frames, several frames and long windows") {
  const TemporaryDirectory work;
  const std::string_view skippable("\x50\x2a\x4d\x18\x04\0\0\0abcd", 12);
  const std::string_view other_skippable("\x5f\x2a\x4d\x18\0\0\0\0", 8);
  write(work / "p.jsonl.zst", std::string(skippable) + zstd(json_lines(100)) + std::string(other_skippable) +
                                  zstd(json_lines(100, "more")) + zstd("") + std::string(512, '\0'));
  CHECK(read(strict(work / "p.jsonl.zst")).documents.size() == 200);
  write(work / "w.jsonl.zst", zstd_with_window(json_lines(500), 31));
  CHECK(read(strict(work / "w.jsonl.zst")).documents.size() == 500);
  write(work / "g.jsonl.zst", zstd(random_lines(1000)) + "garbage");
  CHECK_THROWS_WITH_AS(read(strict(work / "g.jsonl.zst")), doctest::Contains("what follows a frame is not zstd"),
                       Error);
  CHECK(read(work / "g.jsonl.zst").documents.size() == 1000);
}

TEST_CASE("gzip with empty members, padding, and what gzip leaves out") {
  const TemporaryDirectory work;
  const std::string members = gzip("") + gzip(json_lines(100)) + gzip("") + gzip(json_lines(100, "more"));
  for (const std::string& tail :
       {std::string(), std::string(4096, '\0'), std::string(300'000, '\0'), std::string(1, '\0'),
        std::string("garbage"), std::string("\0\0garbage", 9), std::string("\x1f", 1)}) {
    write(work / "a.jsonl.gz", members + tail);
    CHECK(read(strict(work / "a.jsonl.gz")).documents.size() == 200);
  }
  write(work / "a.jsonl.gz", members + std::string(512, '\0') + gzip(json_lines(10, "third")));
  CHECK(read(strict(work / "a.jsonl.gz")).documents.size() == 210);
  write(work / "a.jsonl.gz", members.substr(0, members.size() - 3));
  CHECK_THROWS_WITH_AS(read(strict(work / "a.jsonl.gz")), doctest::Contains("truncated gzip"), Error);
}

TEST_CASE("a damaged file counts by its bytes, and what is lost is said") {
  const TemporaryDirectory work;
  const std::string lines = random_lines(2000);
  for (const bool is_gzip : {true, false}) {
    std::string packed = is_gzip ? gzip(lines) : zstd(lines);
    for (size_t i = packed.size() / 2; i < packed.size() / 2 + 40; ++i) packed[i] = static_cast<char>(packed[i] ^ 0x55);
    write(work / "d/a.jsonl", json_lines(1000));
    write(work / "d/b.jsonl.packed", packed);
    CHECK_THROWS_WITH_AS(read(work / "d"), doctest::Contains("cannot be read"), Error);
    CorpusOptions patient{.paths = {work / "d"}};
    patient.bad_fraction_max = 0.95;
    const Read got = read(patient);
    CHECK(got.documents.size() > 1000);
    CHECK(got.statistics.lost_bytes <= static_cast<int64_t>(packed.size()));
    CHECK(got.statistics.lost_files == 1);
    CHECK(got.statistics.lost_bytes > static_cast<int64_t>(packed.size()) / 4);
    CHECK(got.statistics.lost_places.front().find("b.jsonl.packed: damaged") != std::string::npos);
    CHECK(got.statistics.lost_places.front().find("documents of it were read") != std::string::npos);
    CHECK(corpus_statistics_json(got.statistics)["lost_places"].size() == 1);
  }
}

TEST_CASE("formats that are not read are named, also within gzip") {
  const TemporaryDirectory work;
  std::string tar(1024, '\0');
  tar.replace(0, 5, "a.txt");
  tar.replace(257, 5, "ustar");
  std::string old_tar(1024, '\0');
  old_tar.replace(0, 5, "a.txt");
  int sum = 8 * ' ';
  for (const char c : std::string("a.txt")) sum += c;
  const std::string octal = fmt::format("{:06o}", sum);
  old_tar.replace(148, octal.size(), octal);
  using namespace std::string_literals;
  const std::pair<std::string, const char*> cases[] = {
      {"BZh91AY&SY\x12\x34\xff\xfe"s, "bzip2, which is not read; unpack it first"},
      {"\xfd"s + "7zXZ\0\0\4"s, "xz, which is not read; unpack it first"},
      {"PK\x03\x04\x14\0\0\0"s, "a zip archive"},
      {tar, "a tar archive"},
      {old_tar, "a tar archive"},
      {gzip(tar), "within gzip, a tar archive"},
      {zstd(tar), "within zstd, a tar archive"},
      {gzip(gzip("text")), "within gzip, gzip"},
      {"PAR1\x15\0\x15\x10"s, "parquet"},
      {"\x04\x22\x4d\x18\x64\x40"s, "lz4"},
      {"7z\xbc\xaf\x27\x1c\0\4"s, "a 7z archive"},
      {"Rar!\x1a\x07\1\0"s, "a rar archive"},
      {"%PDF-1.4\n%\xe2\xe3"s, "PDF"},
      {"ARROW1\0\0\xff\xff\xff\xff"s, "arrow"},
      {"\xff\xff\xff\xff\x70\1\0\0\x10\0\0\0"s, "arrow"},
      {"\x93NUMPY\1\0v\0"s, "a NumPy array"},
      {"\x89PNG\r\n\x1a\n\0\0"s, "a PNG image"},
      {"\xff\xd8\xff\xe0\0\x10JFIF"s, "a JPEG image"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"s, "git lfs pull"},
  };
  for (const auto& [bytes, expected] : cases) {
    CAPTURE(expected);
    for (const char* name : {"a.jsonl", "a.txt", "a"}) {
      write(work / name, bytes);
      CHECK_THROWS_WITH_AS(read(work / name), doctest::Contains(expected), Error);
    }
  }
  for (const char* words : {"GIF89a is a format", "PAR1 is how parquet begins", "BZh9 and more", "Obj", "ORC\nsong"}) {
    write(work / "words.txt", words);
    CHECK(read(work / "words.txt").texts() == std::vector<std::string>{words});
  }
}

}  // namespace
}  // namespace cbtm
