#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/corpus/corpus.h"
#include "corpus/json_line.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// "domain:text" of each document.
std::vector<std::string> read_domains(const CorpusOptions& options, CorpusStatistics& statistics) {
  std::vector<std::string> result;
  CorpusReader reader(options);
  for (Document document; reader.next(document);) result.push_back(document.domain + ":" + document.text);
  statistics = reader.statistics();
  return result;
}

TEST_CASE("the domain field of a line: a string or a number, wherever it stands") {
  JsonLineFields fields;
  const auto domain = [&](const char* line, const char* field) {
    CHECK(parse_json_line(line, "text", fields, field) == "");
    CHECK(fields.text == "x");
    return fields.domain;
  };
  CHECK(domain(R"({"source": "a\u00e9", "text": "x"})", "source") == "a\u00e9");
  CHECK(domain(R"({"text": "x", "source": -12.50})", "source") == "-12.50");
  CHECK(domain(R"({"text": "x", "source": "a", "source": "b"})", "source") == "b");
  CHECK(domain(R"({"id": 7, "text": "x"})", "id") == "7");
  for (const char* line : {R"({"text": "x"})", R"({"text": "x", "source": null})", R"({"text": "x", "source": ["a"]})",
                           R"({"text": "x", "source": {"source": "a"}})", R"({"text": "x", "source": true})",
                           R"({"text": "x", "deeper": {"source": "a"}})"})
    CHECK(domain(line, "source") == "");
  CHECK(domain(R"({"text": "x", "": "a"})", "") == "");  // no field was asked for
}

TEST_CASE("documents without a domain are bad ones; those of a field") {
  const TemporaryDirectory directory;
  write(directory / "c/a.jsonl",
        "{\"text\": \"1\", \"source\": \"s\"}\n{\"text\": \"2\"}\n{\"source\": 3, \"text\": \"3\"}\n");
  write(directory / "c/b.txt", "a text");
  write(directory / "c/c.json", "[{\"text\": \"4\", \"source\": \"t\"}]");
  write(directory / "c/d.jsonl", "{\"text\": \"5\", \"source\": \"" + std::string(257, 'n') + "\"}\n");
  CorpusOptions options;
  options.paths = {(directory / "c").string()};
  options.domain_source = DomainSource::field;
  options.domain_field = "source";
  CorpusStatistics statistics;
  CHECK(read_domains(options, statistics) == std::vector<std::string>{"s:1", "3:3", "t:4"});
  CHECK(statistics.broken_lines == 3);
  REQUIRE(statistics.bad_places.size() == 3);
  CHECK(statistics.bad_places[0].find("a.jsonl:2: no domain: it has no field 'source'") != std::string::npos);
  CHECK(statistics.bad_places[1].find("b.txt: no domain") != std::string::npos);
  CHECK(statistics.bad_places[2].find("a name of 257 bytes") != std::string::npos);
  options.on_bad_document = OnBadDocument::fail;
  CHECK_THROWS_WITH_AS(read_domains(options, statistics), doctest::Contains("no domain"), Error);
}

TEST_CASE("the first directory below the corpus path is the domain") {
  const TemporaryDirectory directory;
  write(directory / "c/law/x/a.txt", "1");
  write(directory / "c/law/b.jsonl", "{\"text\": \"2\"}\n");
  write(directory / "c/news/a.txt", "3");
  write(directory / "c/README", "4");
  CorpusOptions options;
  options.paths = {(directory / "c").string()};
  options.domain_source = DomainSource::directory;
  CorpusStatistics statistics;
  CHECK(read_domains(options, statistics) == std::vector<std::string>{"law:2", "law:1", "news:3"});
  CHECK(statistics.broken_lines == 1);
  REQUIRE(!statistics.bad_places.empty());
  CHECK(statistics.bad_places[0].find("lies in no directory below") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
