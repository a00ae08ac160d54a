#include "cbtm/corpus/corpus.h"

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "corpus/json_line.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("all formats are read, in sorted order, with ids that do not depend on the place") {
  std::vector<std::vector<std::string>> ids;
  for (int trial = 0; trial < 2; ++trial) {
    const TemporaryDirectory directory;
    const std::filesystem::path root = directory.path() / ("data" + std::to_string(trial));
    write(root / "b.jsonl",
          "{\"text\": \"one\"}\n\n{\"id\": \"x7\", \"text\": \"two\"}\n{\"id\": 12, \"text\": \"three\"}");
    write(root / "c.jsonl.gz", gzip("{\"text\": \"four\"}\n") + gzip("{\"text\": \"five\"}\n"));
    write(root / "d.jsonl.zst", zstd("{\"text\": \"six\"}\n") + zstd("{\"text\": \"seven\"}\n"));
    write(root / "a/source.py", "import os\n");
    write(root / "a/text.txt.gz", gzip("gzipped text\n"));
    write(root / ".hidden", "not read");
    const Read got = read({.paths = {root.string()}});
    ids.emplace_back();
    std::vector<std::string> texts;
    for (const Document& document : got.documents) {
      ids.back().push_back(document.id);
      texts.push_back(document.text);
    }
    CHECK(texts == std::vector<std::string>{"import os\n", "gzipped text\n", "one", "two", "three", "four", "five",
                                            "six", "seven"});
    CHECK(got.statistics.bad() == 0);
  }
  CHECK(ids[0] == ids[1]);
  CHECK(ids[0] == std::vector<std::string>{"a/source.py", "a/text.txt.gz", "b.jsonl:1", "x7", "12", "c.jsonl.gz:1",
                                           "c.jsonl.gz:2", "d.jsonl.zst:1", "d.jsonl.zst:2"});
}

TEST_CASE("bad documents are counted, named and skipped, or fatal") {
  const TemporaryDirectory directory;
  std::string good;
  for (int i = 0; i < 600; ++i) good += "{\"text\": \"good " + std::to_string(i) + "\"}\n";
  write(directory.path() / "a.jsonl",
        good + "{\"text\": \"\"}\n{\"text\": 3}\n{\"text\": \"x\"\n{\"text\": \"\xff\"}\n{\"text\": \"good 1\"}\n");
  const std::string packed = gzip(good + "{\"text\": \"after\"}");
  write(directory.path() / "b.jsonl.gz", packed.substr(0, packed.size() - 30));
  const Read got = read({.paths = {directory.path().string()}});
  CHECK(got.statistics.empty == 1);
  CHECK(got.statistics.broken_lines == 2);
  CHECK(got.statistics.invalid_utf8 == 1);
  CHECK(got.statistics.truncated_files == 1);
  CHECK(got.statistics.duplicates > 100);
  CHECK(got.statistics.documents == 600);
  CHECK(got.statistics.bad_places.front().find("a.jsonl:601: empty document") != std::string::npos);
  CHECK_THROWS_WITH_AS(read({.paths = {directory.path().string()}, .on_bad_document = OnBadDocument::fail}),
                       doctest::Contains("a.jsonl:601"), Error);
  CHECK(read({.paths = {directory.path() / "a.jsonl"}, .keep_duplicates = true}).documents.size() == 601);
  CHECK_THROWS_WITH_AS(read({.paths = {directory.path() / "a.jsonl"}, .text_field = "body"}),
                       doctest::Contains("no text field 'body'"), Error);
}

TEST_CASE("too many bad documents, missing paths and empty corpora are errors") {
  const TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 200; ++i) text += i % 50 == 0 ? "broken\n" : "{\"text\": \"" + std::to_string(i) + "\"}\n";
  write(directory.path() / "a.jsonl", text);
  CHECK_THROWS_WITH_AS(read({.paths = {directory.path().string()}}), doctest::Contains("4 of 200"), Error);
  CHECK_THROWS_WITH_AS(read({.paths = {"nowhere"}}), doctest::Contains("nowhere"), Error);
  const TemporaryDirectory empty;
  CHECK_THROWS_AS(read({.paths = {empty.path().string()}}), Error);
}

TEST_CASE("the JSON scanner agrees with a full parser on damaged and whole lines") {
  const std::string seeds[] = {
      R"({"text": "a\u00e9\ud83d\ude00\n\"\\\/", "id": -1.5e+3, "x": [1, {"y": null}, true, false, "z"]})",
      R"({"id": "i", "text": "t", "text": "last"})",
      R"({ "a" : { } , "b" : [ ] , "text" : "" })",
      R"({"text":"tab	inside"})",
      R"({"text": 0.5, "id": 01})",
      R"({})",
      R"([1])",
      R"({"text": "\ud800"})"};
  PhiloxStream random(3, 0);
  for (int trial = 0; trial < 60'000; ++trial) {
    std::string line = seeds[random.next_below(std::size(seeds))];
    for (uint64_t changes = random.next_below(3); changes > 0; --changes) {
      const auto place = random.next_below(line.size());
      const char other = "\"{}[],:\\ue019-+.tfn"[random.next_below(19)];
      if (random.next_below(2) == 0)
        line[place] = other;
      else
        line.insert(place, 1, other);
    }
    CAPTURE(line);
    const Json parsed = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool good = parsed.is_object() && parsed.contains("text") && parsed["text"].is_string();
    JsonLineFields fields;
    const std::string problem = parse_json_line(line, "text", fields);
    // nlohmann also refuses numbers too large for a double.
    if (parsed.is_discarded() && problem.empty()) continue;
    CHECK(problem.empty() == good);
    if (good) CHECK(fields.text == parsed["text"].get<std::string>());
  }
}

TEST_CASE("the held-out split is stable, has the wanted size, and its sides are apart") {
  const HeldOutSplit split = HeldOutSplit::for_corpus(100'000, 0.01);
  CHECK(split.valid_fraction == 0.01);
  int64_t valid = 0, tune = 0;
  for (int i = 0; i < 20'000; ++i) {
    const Split side = split.side("document " + std::to_string(i));
    valid += side == Split::valid ? 1 : 0;
    tune += side == Split::tune ? 1 : 0;
  }
  CHECK(std::abs(valid - 200) < 60);
  CHECK(std::abs(tune - 200) < 60);
  CHECK(HeldOutSplit::for_corpus(1000, 0.01).valid_fraction == doctest::Approx(0.065));
  CHECK(HeldOutSplit::for_corpus(20, 0.01).valid_fraction == 0.25);
}

TEST_CASE("empty documents are counted, however many there are, and do not make a corpus a wrong one") {
  const TemporaryDirectory directory;
  {
    std::ofstream file(directory / "c.jsonl");
    for (int i = 0; i < 200; ++i) file << "{\"text\": \"" << (i % 3 == 0 ? "" : "text " + std::to_string(i)) << "\"}\n";
  }
  CorpusReader reader({.paths = {(directory / "c.jsonl").string()}});
  for (Document document; reader.next(document);) CHECK_FALSE(document.text.empty());
  CHECK(reader.statistics().empty == 67);
  CHECK(reader.statistics().documents == 133);
}

}  // namespace
}  // namespace cbtm
