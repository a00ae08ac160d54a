// A corpus is the same if its bytes are.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// As if the file had been changed long ago.
void age(const fs::path& path) {
  const timespec times[2] = {{1'000'000'000, 1}, {1'000'000'000, 1}};
  ::utimensat(AT_FDCWD, path.c_str(), times, 0);
}

TEST_CASE("the fingerprint is of names and contents, not of times and places") {
  const TemporaryDirectory work;
  for (const char* folder : {"a", "b"}) {
    write(work / folder / "x.jsonl", json_lines(10));
    write(work / folder / "y.txt", "text");
  }
  age(work / "b/x.jsonl");
  const auto of = [&](const char* folder) { return corpus_fingerprint({.paths = {work / folder}}); };
  const std::string first = of("a");
  CHECK(of("b") == first);
  CHECK(corpus_fingerprint({.paths = {work / "a"}, .text_field = "body"}) != first);
  write(work / "b/y.txt", "Text");
  CHECK(of("b") != first);
  write(work / "b/y.txt", "text");
  CHECK(of("b") == first);
  fs::rename(work / "b/y.txt", work / "b/z.txt");
  CHECK(of("b") != first);
}

TEST_CASE("the cache of hashes is believed for unchanged files only, and may be damaged") {
  const TemporaryDirectory work;
  write(work / "a/x.txt", "one");
  const fs::path cache = work / "run/corpus-hashes.json";
  const CorpusOptions options{.paths = {work / "a"}};
  const std::string first = corpus_fingerprint(options, cache);
  for (const char* damaged : {"", "{", "[]", "{\"files\": 3}", "{\"files\": {\"x\": 1}}", "\xff"}) {
    write(cache, damaged);
    CHECK(corpus_fingerprint(options, cache) == first);
  }
  write(work / "a/x.txt", "two");
  age(work / "a/x.txt");
  CHECK(corpus_fingerprint(options, cache) != first);
  write(work / "a/x.txt", "one");
  age(work / "a/x.txt");  // the same size and time as before
  CHECK(corpus_fingerprint(options, cache) == first);
}

TEST_CASE("what is no cache of hashes is left as it is, also behind a link") {
  const TemporaryDirectory work;
  write(work / "a/x.txt", "one");
  const CorpusOptions options{.paths = {work / "a"}};
  const std::string first = corpus_fingerprint(options);
  const auto contents = [](const fs::path& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  write(work / "notes.txt", "precious");
  fs::create_directories(work / "run");
  fs::create_symlink("../notes.txt", work / "run/corpus-hashes.json");
  CHECK(corpus_fingerprint(options, work / "run/corpus-hashes.json") == first);
  CHECK(contents(work / "notes.txt") == "precious");
  write(work / "mine/corpus-hashes.json", "{\"mine\": 1}");
  CHECK(corpus_fingerprint(options, work / "mine/corpus-hashes.json") == first);
  CHECK(contents(work / "mine/corpus-hashes.json") == "{\"mine\": 1}");
}

TEST_CASE("passes over a corpus can be compared") {
  const TemporaryDirectory work;
  write(work / "a.jsonl", json_lines(10));
  const auto digest = [&] {
    CorpusReader reader({.paths = {work / "a.jsonl"}});
    for (Document document; reader.next(document);) {
    }
    return reader.digest();
  };
  const CorpusDigest first = digest();
  CHECK(first.documents == 10);
  CHECK(digest() == first);
  write(work / "a.jsonl", json_lines(10, "tex7"));
  CHECK(digest().documents == 10);
  CHECK(digest() != first);
}

}  // namespace
}  // namespace cbtm
