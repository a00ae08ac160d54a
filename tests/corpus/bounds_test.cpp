// What is held in memory is bounded, and passes that differ are found.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/corpus/document_batches.h"
#include "corpus/text_hashes.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

constexpr int64_t kMiB = 1 << 20;

TEST_CASE("documents above the limit are named and skipped, and the next ones are read") {
  const TemporaryDirectory work;
  const std::string long_text(3 * kMiB, 'x');
  const std::string line = "{\"text\": \"" + long_text + "\"}";
  CorpusOptions options;
  options.document_bytes_max = kMiB;
  const std::pair<const char*, std::string> cases[] = {
      {"a.jsonl", "{\"text\": \"one\"}\n" + line + "\n{\"text\": \"two\"}\n"},
      {"end.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n" + line},
      {"a.json", "[{\"text\": \"one\"}," + line + ", {\"text\": \"two\"}]"},
  };
  for (const auto& [name, text] : cases) {
    CAPTURE(name);
    write(work / name, text);
    options.paths = {work / name};
    const Read got = read(options);
    CHECK(got.texts() == std::vector<std::string>{"one", "two"});
    CHECK(got.statistics.too_long == 1);
    CHECK(got.statistics.bad_places.front().find("longer than 1.0 MiB") != std::string::npos);
    CHECK(got.statistics.bad_places.front().find("--max-document-bytes") != std::string::npos);
  }
  write(work / "d/a.txt", long_text);
  write(work / "d/b.txt", "one");
  options.paths = {work / "d"};
  CHECK(read(options).texts() == std::vector<std::string>{"one"});
  options.document_bytes_max = 4 * kMiB;
  CHECK(read(options).documents.size() == 2);
}

TEST_CASE("a bomb of one long line is read in a small memory") {
  const TemporaryDirectory work;
  std::string packed;
  const std::string zeros = gzip(std::string(64 * kMiB, '0'));
  packed = gzip("{\"text\": \"");
  for (int i = 0; i < 4; ++i) packed += zeros;
  packed += gzip("\"}\n" + json_lines(3));
  write(work / "bomb.jsonl.gz", packed);
  write(work / "bomb.txt.gz", zeros + zeros);
  CorpusOptions options{.paths = {work / "bomb.jsonl.gz"}};
  options.document_bytes_max = 8 * kMiB;
  const int64_t before = peak_resident_bytes();
  CHECK(read(options).documents.size() == 3);
  options.paths = {work / "bomb.txt.gz"};
  CHECK_THROWS_WITH_AS(read(options), doctest::Contains("bomb.txt.gz: longer than"), Error);
  CHECK(peak_resident_bytes() - before < 64 * kMiB);
}

TEST_CASE("batches are bounded by count and by bytes") {
  const TemporaryDirectory work;
  std::string lines = json_lines(3000);
  for (int i = 0; i < 12; ++i) lines += "{\"text\": \"" + std::to_string(i) + std::string(3 * kMiB, 'x') + "\"}\n";
  write(work / "a.jsonl", lines);
  DocumentBatches batches({.paths = {work / "a.jsonl"}}, "a test");
  std::vector<size_t> sizes;
  for (std::vector<Document> batch; batches.next(batch);) {
    size_t bytes = 0;
    for (const Document& document : batch) bytes += document.text.size();
    CHECK(bytes <= DocumentBatches::kBytesMax + 3 * kMiB + 2);
    sizes.push_back(batch.size());
  }
  CHECK(sizes[0] == 1024);
  CHECK(batches.reader().statistics().documents == 3012);
  CHECK(sizes.size() >= 2 + 4);
}

TEST_CASE("a pass that gives something else than the one before is an error") {
  const TemporaryDirectory work;
  write(work / "a.jsonl", json_lines(3000));
  const auto pass = [&](std::optional<CorpusDigest> expected) {
    DocumentBatches batches({.paths = {work / "a.jsonl"}}, "a test", expected);
    int64_t given = 0;
    for (std::vector<Document> batch; batches.next(batch);) given += static_cast<int64_t>(batch.size());
    CHECK((!expected || given <= expected->documents));
    return batches.reader().digest();
  };
  const CorpusDigest first = pass(std::nullopt);
  CHECK(pass(first) == first);
  for (const std::string& changed : {json_lines(3001), json_lines(2999), json_lines(3000, "tex7"), json_lines(9000)}) {
    write(work / "a.jsonl", changed);
    CHECK_THROWS_WITH_AS(pass(first), doctest::Contains("the corpus changed while it was read"), Error);
  }
}

TEST_CASE("the set of hashes finds what was seen, and takes little") {
  TextHashes hashes;
  for (uint64_t i = 0; i < 100'000; ++i) CHECK(hashes.insert(i * 0x9E3779B97F4A7C15U));
  for (uint64_t i = 0; i < 100'000; ++i) CHECK_FALSE(hashes.insert(i * 0x9E3779B97F4A7C15U));
  CHECK(hashes.bytes() <= 100'000 * 22);
}

}  // namespace
}  // namespace cbtm
