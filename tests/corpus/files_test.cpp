// Which files belong to a corpus: names of any bytes, links, folders that cannot be read, run directories.

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/corpus/file_name.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  return names;
}

TEST_CASE("file names of any bytes give ids that are UTF-8 and differ") {
  const TemporaryDirectory work;
  const std::vector<std::string> names = {"caf\xe9.txt", "caf\xe8.txt", "caf\\xE9.txt", "caf\xc3\xa9.txt",
                                          "a\\b.txt",    "a\nb.txt",    "\xff\xfe",     "caf\xe9.jsonl"};
  int number = 0;
  for (const std::string& name : names)
    write(work / "d" / name, name.ends_with("jsonl") ? json_lines(2) : "text number " + std::to_string(++number));
  const Read got = read(work / "d");
  CHECK(got.documents.size() == names.size() + 1);
  const std::vector<std::string> ids = got.ids();
  CHECK(std::set<std::string>(ids.begin(), ids.end()).size() == ids.size());
  for (const Document& document : got.documents) {
    CHECK_NOTHROW((void)Json(document.id).dump());
    CHECK_NOTHROW((void)Json(document.place).dump());
    CHECK(document.place.find('\n') == std::string::npos);
  }
  CHECK(std::count(ids.begin(), ids.end(), "caf\\xE9.txt") == 1);
  CHECK(std::count(ids.begin(), ids.end(), "caf\xc3\xa9.txt") == 1);
  CHECK(std::count(ids.begin(), ids.end(), "a\\b.txt") == 1);
  CHECK(utf8_name("caf\\xE9") == "caf\\x5CxE9");
  CHECK_THROWS_WITH_AS(read(work / "caf\xe9"), doctest::Contains("caf\\xE9: there is no such file"), Error);
}

TEST_CASE("a folder by the name of a record is a folder") {
  const TemporaryDirectory work;
  write(work / "corpus/run.json/one.jsonl", json_lines(2));
  write(work / "corpus/sub/run.json/two.jsonl", "{\"text\": \"another\"}\n");
  CHECK(read(work / "corpus").documents.size() == 3);
  fs::create_directory(work / "hashes.json");
  CorpusOptions options;
  options.paths = {(work / "corpus").string()};
  CHECK_FALSE(corpus_fingerprint(options, work / "hashes.json").empty());
}

TEST_CASE("results that --json has written into the corpus are no documents") {
  const TemporaryDirectory work;
  write(work / "corpus/one.jsonl", json_lines(2));
  const size_t before = read(work / "corpus").documents.size();
  write(work / "corpus/result.json", "{\n  \"_made_by\": \"cbtm 0.1.0\",\n  \"text\": \"no document\"\n}\n");
  write(work / "corpus/result-without-an-extension", "{\n  \"_made_by\": \"cbtm 0.1.0\"\n}\n");
  CHECK(read(work / "corpus").documents.size() == before);
  write(work / "corpus/other.json", "{\n  \"text\": \"a document of somebody\"\n}\n");
  CHECK(read(work / "corpus").documents.size() == before + 1);
}

TEST_CASE("linked folders are followed once, links that lead nowhere or back are named") {
  const TemporaryDirectory work;
  write(work / "real/one.txt", "one");
  write(work / "corpus/sub/two.txt", "two");
  fs::create_directory_symlink("../real", work / "corpus/part1");
  CHECK(sorted(read(work / "corpus").ids()) == std::vector<std::string>{"part1/one.txt", "sub/two.txt"});
  fs::create_directory_symlink("../real", work / "corpus/part2");
  fs::create_directory_symlink("sub", work / "corpus/again");
  CHECK(sorted(read(work / "corpus").ids()) == std::vector<std::string>{"part1/one.txt", "sub/two.txt"});
  CHECK(read(work / "corpus").statistics.bad() == 0);

  const std::pair<const char*, const char*> links[] = {
      {"loop", "loop: a link that leads back to itself"},
      {".", "loop: a link back to a folder that holds it"},
      {"nowhere", "loop: a link to what is not there"},
  };
  for (const auto& [target, expected] : links) {
    CAPTURE(expected);
    fs::create_symlink(target, work / "corpus/loop");
    const Read got = read(work / "corpus");
    CHECK(got.documents.size() == 2);
    CHECK(got.statistics.unreadable == 1);
    CHECK(got.statistics.lost_places.front().find(expected) != std::string::npos);
    CHECK_THROWS_WITH_AS(read({.paths = {work / "corpus"}, .on_bad_document = OnBadDocument::fail}),
                         doctest::Contains(expected), Error);
    fs::remove(work / "corpus/loop");
  }
  write(work / "corpus/sub/deep/three.txt", "three");
  fs::create_symlink("../..", work / "corpus/sub/deep/up");
  CHECK(read(work / "corpus").documents.size() == 3);
}

TEST_CASE("folders and files that cannot be read are named and skipped, or fatal") {
  if (::geteuid() == 0) return;  // who may read everything; the tests of the binary take another user
  const TemporaryDirectory work;
  write(work / "c/a.txt", "one");
  write(work / "c/locked/b.txt", "two");
  fs::permissions(work / "c/locked", fs::perms::none);
  const Read got = read(work / "c");
  fs::permissions(work / "c/locked", fs::perms::owner_all);
  CHECK(got.documents.size() == 1);
  CHECK(got.statistics.bad_places.front().find("locked: a folder that cannot be read") != std::string::npos);
}

TEST_CASE("pipes within a folder are not waited for") {
  const TemporaryDirectory work;
  write(work / "c/a.txt", "one");
  REQUIRE(::mkfifo((work / "c/pipe").c_str(), 0600) == 0);
  const Read got = read(work / "c");
  CHECK(got.documents.size() == 1);
  CHECK(got.statistics.bad_places.front().find("pipe: a pipe, socket or device") != std::string::npos);
}

TEST_CASE("run directories and what is excluded are no part of a corpus") {
  const TemporaryDirectory work;
  write(work / "c/a.txt", "one");
  write(work / "c/run/run.json", R"({"stages": {}})");
  write(work / "c/study/configuration.json", R"({"format": 1, "config": {}, "corpus": "0f"})");
  write(work / "c/stopped/corpus-hashes.json", R"({"format": 1, "files": {}})");
  write(work / "c/run/tokenizer/merges.txt", "a b");
  write(work / "c/other/run.json", R"({"name": "an app"})");
  write(work / "c/young/stdin.jsonl", json_lines(2));
  CHECK(sorted(read(work / "c").ids()) ==
        std::vector<std::string>{"a.txt", "other/run.json", "young/stdin.jsonl:1", "young/stdin.jsonl:2"});
  CorpusOptions options{.paths = {work / "c"}};
  fs::create_directory_symlink("c/young", work / "link");
  options.exclude = {work / "link", work / "c/other/run.json", work / "not/there/yet"};
  CHECK(read(options).ids() == std::vector<std::string>{"a.txt"});
  options.exclude = {work / "c"};
  CHECK_THROWS_WITH_AS(read(options), doctest::Contains("is the run directory"), Error);
  CHECK_THROWS_WITH_AS(read(work / "c/run"), doctest::Contains("is a run directory of cbtm"), Error);
  CHECK_THROWS_WITH_AS(read(work / "c/study"), doctest::Contains("is a run directory of cbtm"), Error);
}

}  // namespace
}  // namespace cbtm
