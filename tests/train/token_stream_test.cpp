#include "cbtm/train/token_stream.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

constexpr int64_t kVocabulary = 100'000;

/// Datasets whose tokens are all different: token number i of all data is i.
struct NumberedCorpus {
  TemporaryDirectory directory;
  std::vector<std::filesystem::path> prefixes;
  std::vector<int32_t> document_begins;  ///< first token of every document that has one
  int32_t tokens = 0;

  explicit NumberedCorpus(const std::vector<std::vector<int64_t>>& lengths) {
    for (size_t d = 0; d < lengths.size(); ++d) {
      prefixes.push_back(directory / std::to_string(d));
      IndexedDatasetWriter writer(prefixes.back(), kVocabulary);
      for (const int64_t length : lengths[d]) {
        std::vector<int32_t> ids;
        if (length > 0) document_begins.push_back(tokens);
        for (int64_t i = 0; i < length; ++i) ids.push_back(tokens++);
        writer.add(ids);
      }
      writer.commit();
    }
  }
  TokenStream stream(uint64_t seed) const {
    std::vector<IndexedDataset> datasets;
    for (const std::filesystem::path& prefix : prefixes) datasets.emplace_back(prefix);
    return {std::move(datasets), seed};
  }
};

NumberedCorpus mixed_corpus() {
  std::vector<std::vector<int64_t>> lengths(3);
  PhiloxStream random(5, 0);
  for (std::vector<int64_t>& dataset : lengths)
    for (int i = 0; i < 40; ++i) dataset.push_back(static_cast<int64_t>(random.next_below(60)));
  lengths[1].push_back(0);
  lengths[1].push_back(900);  // longer than most sequences
  return NumberedCorpus(lengths);
}

/// The stream's first `count` tokens, read sequence by sequence; checks that targets follow inputs, that sequences
/// join, and that the places where documents begin are told.
std::vector<int32_t> read_stream(TokenStream& stream, const NumberedCorpus& corpus, int64_t count, int64_t length) {
  std::vector<int32_t> all, ids(static_cast<size_t>(length) + 1), starts;
  for (int64_t index = 0; static_cast<int64_t>(all.size()) < count; ++index) {
    stream.sequence(index, length, ids, starts);
    if (!all.empty()) CHECK(all.back() == ids.front());  // the last target is the next sequence's first input
    std::vector<int32_t> begins;
    for (size_t i = 1; i < ids.size(); ++i)
      if (std::binary_search(corpus.document_begins.begin(), corpus.document_begins.end(), ids[i]))
        begins.push_back(static_cast<int32_t>(i));
    CHECK(starts == begins);
    all.insert(all.end(), ids.begin() + (all.empty() ? 0 : 1), ids.end());
  }
  all.resize(static_cast<size_t>(count));
  return all;
}

TEST_CASE("every token of an epoch comes exactly once, whole documents in a new order every epoch") {
  const NumberedCorpus corpus = mixed_corpus();
  for (const int64_t length : {int64_t{1}, int64_t{7}, int64_t{64}, int64_t{corpus.tokens} + 5}) {
    CAPTURE(length);
    TokenStream stream = corpus.stream(1);
    REQUIRE(stream.tokens_per_epoch() == corpus.tokens);
    CHECK(stream.documents() == static_cast<int64_t>(corpus.document_begins.size()));
    const std::vector<int32_t> all = read_stream(stream, corpus, 3 * corpus.tokens, length);
    std::set<std::vector<int32_t>> orders;
    for (int epoch = 0; epoch < 3; ++epoch) {
      const std::vector<int32_t> tokens(all.begin() + epoch * corpus.tokens, all.begin() + (epoch + 1) * corpus.tokens);
      std::vector<int32_t> sorted = tokens;
      std::sort(sorted.begin(), sorted.end());
      for (int32_t i = 0; i < corpus.tokens; ++i) REQUIRE(sorted[static_cast<size_t>(i)] == i);
      // A token is followed by the next one of its document, unless it is the last.
      for (size_t i = 0; i + 1 < tokens.size(); ++i)
        if (!std::binary_search(corpus.document_begins.begin(), corpus.document_begins.end(), tokens[i] + 1) &&
            tokens[i] + 1 < corpus.tokens)
          REQUIRE(tokens[i + 1] == tokens[i] + 1);
      orders.insert(tokens);
    }
    CHECK(orders.size() == 3);
  }
}

TEST_CASE("any sequence can be asked for at any time, and the order follows the seed") {
  const NumberedCorpus corpus = mixed_corpus();
  constexpr int64_t kLength = 50;
  const int64_t count = 3 * corpus.tokens / kLength;
  const auto read = [&](TokenStream& stream, int64_t index) {
    std::vector<int32_t> ids(kLength + 1), starts;
    stream.sequence(index, kLength, ids, starts);
    return ids;
  };
  TokenStream forward = corpus.stream(1), backward = corpus.stream(1), other = corpus.stream(2);
  std::vector<std::vector<int32_t>> seen;
  for (int64_t index = 0; index < count; ++index) seen.push_back(read(forward, index));
  for (int64_t index = count; index-- > 0;) CHECK(read(backward, index) == seen[static_cast<size_t>(index)]);
  CHECK(read(other, 0) != seen[0]);
}

TEST_CASE("a shard without tokens says what to do") {
  const NumberedCorpus corpus({{0, 0}, {}});
  CHECK_THROWS_WITH_AS(corpus.stream(1), doctest::Contains("--k"), Error);
}

}  // namespace
}  // namespace cbtm
