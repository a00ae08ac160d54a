#include "cluster/given_labels.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

using Names = std::vector<std::vector<std::string>>;

CorpusOptions numbered_corpus(const std::filesystem::path& path, int64_t documents) {
  std::ofstream file(path);
  for (int64_t i = 0; i < documents; ++i) file << R"({"text": "document )" << i << "\"}\n";
  CorpusOptions options;
  options.paths = {path.string()};
  return options;
}

/// Reads the corpus once: its digest, and the side of each document.
CorpusDigest read_once(const CorpusOptions& corpus, const HeldOutSplit& split, std::vector<Split>& sides) {
  CorpusReader reader(corpus);
  for (Document document; reader.next(document);) sides.push_back(split.side(document.text));
  return reader.digest();
}

TEST_CASE("random clusters are a seeded partition: equal sizes in all splits and in all") {
  const TemporaryDirectory directory;
  const HeldOutSplit split{.valid_fraction = 0.1, .tune_fraction = 0.1};
  for (const int64_t documents : {7, 100, 1501})
    for (const int64_t clusters : {1, 3, 7}) {
      CAPTURE(documents);
      CAPTURE(clusters);
      const CorpusOptions corpus = numbered_corpus(directory / "corpus.jsonl", documents);
      std::vector<Split> sides;
      const CorpusDigest counted = read_once(corpus, split, sides);
      const GivenLabels drawn = random_labels(corpus, split, counted, clusters, 1);
      REQUIRE(static_cast<int64_t>(drawn.labels.size()) == documents);
      CHECK(drawn.clusters == clusters);
      std::vector<std::vector<int64_t>> sizes(4, std::vector<int64_t>(static_cast<size_t>(clusters)));
      for (size_t i = 0; i < drawn.labels.size(); ++i) {
        const auto label = static_cast<size_t>(drawn.labels[i]);
        REQUIRE(label < static_cast<size_t>(clusters));
        ++sizes[static_cast<size_t>(sides[i])][label];
        ++sizes[3][label];
      }
      for (const std::vector<int64_t>& of : sizes)
        CHECK(*std::max_element(of.begin(), of.end()) - *std::min_element(of.begin(), of.end()) <= 1);
      CHECK(random_labels(corpus, split, counted, clusters, 1).labels == drawn.labels);
      if (clusters > 1 && documents > 50)
        CHECK(random_labels(corpus, split, counted, clusters, 2).labels != drawn.labels);
    }
}

TEST_CASE("the same texts come into the same random clusters in whatever order they are read") {
  const TemporaryDirectory directory;
  const HeldOutSplit split;
  const auto clusters_of = [&](const std::vector<std::string>& texts) {
    std::ofstream file(directory / "corpus.jsonl");
    for (const std::string& text : texts) file << "{\"text\": \"" << text << "\"}\n";
    file.close();
    CorpusOptions corpus;
    corpus.paths = {(directory / "corpus.jsonl").string()};
    std::vector<Split> sides;
    const CorpusDigest counted = read_once(corpus, split, sides);
    const GivenLabels drawn = random_labels(corpus, split, counted, 4, 9);
    std::map<std::string, int32_t> result;
    for (size_t i = 0; i < texts.size(); ++i) result[texts[i]] = drawn.labels[i];
    return result;
  };
  std::vector<std::string> texts;
  for (int i = 0; i < 60; ++i) texts.push_back("text " + std::to_string(i));
  const auto forward = clusters_of(texts);
  std::reverse(texts.begin(), texts.end());
  CHECK(clusters_of(texts) == forward);
}

TEST_CASE("domains: one cluster for each, in the order of names; the smallest are joined") {
  // Documents: e 1, b 2, d 2, a 5, c 9.
  const std::string read = "cabcccabdcceacdcaac";
  const auto finish = [&](int64_t clusters) {
    DomainCounter counter;
    for (const char name : read) counter.add(std::string(1, name));
    return counter.finish(clusters);
  };
  const GivenLabels all = finish(0);
  CHECK(all.clusters == 5);
  CHECK(all.domains == Names{{"a"}, {"b"}, {"c"}, {"d"}, {"e"}});
  for (size_t i = 0; i < read.size(); ++i) CHECK(all.labels[i] == read[i] - 'a');
  CHECK(finish(5).domains == all.domains);
  CHECK(finish(4).domains == Names{{"a"}, {"b", "e"}, {"c"}, {"d"}});  // 1 + 2; of equal sizes the first name
  CHECK(finish(3).domains == Names{{"a"}, {"b", "d", "e"}, {"c"}});
  CHECK(finish(2).domains == Names{{"a", "b", "d", "e"}, {"c"}});
  CHECK(finish(1).domains == Names{{"a", "b", "c", "d", "e"}});
  const GivenLabels three = finish(3);
  for (size_t i = 0; i < read.size(); ++i) CHECK(three.labels[i] == (read[i] == 'a' ? 0 : read[i] == 'c' ? 2 : 1));
  CHECK_THROWS_WITH_AS(finish(6), doctest::Contains("names only 5 domains"), Error);
}

TEST_CASE("a field that names every document is no domain") {
  DomainCounter counter;
  for (size_t i = 0; i < DomainCounter::kDomainsMax; ++i) counter.add(std::to_string(i));
  CHECK_THROWS_WITH_AS(counter.add("one more"), doctest::Contains("more than 65536 domains, for example 'one more'"),
                       Error);
}

}  // namespace
}  // namespace cbtm
