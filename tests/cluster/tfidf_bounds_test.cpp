// The vocabulary of tf-idf is bounded per document and per term, and what is left out is counted.

#include <doctest/doctest.h>

#include <algorithm>

#include "cluster/tfidf.h"

namespace cbtm {
namespace {

TEST_CASE("a document of very many terms counts by its first ones, and endless words are left out") {
  std::string many;
  for (int64_t i = 0; i < TfIdfBuilder::kDocumentTermsMax + 1000; ++i) many += "w" + std::to_string(i) + " w1 ";
  TfIdfBuilder builder({});
  builder.add({many, "plain words " + std::string(5000, 'x'), "plain again"});
  CHECK(builder.rows() == 3);
  CHECK(builder.left_out().documents == 1);
  CHECK(builder.left_out().long_terms == 1);
  CHECK_FALSE(builder.left_out().full);
  const TfIdf tfidf = builder.finish(1);
  CHECK(static_cast<int64_t>(tfidf.vocabulary.size()) == TfIdfBuilder::kDocumentTermsMax + 3);
  CHECK(tfidf.indptr[1] == TfIdfBuilder::kDocumentTermsMax);
  // What is known already counts on behind the limit.
  float largest = 0;
  for (int64_t i = 0; i < tfidf.indptr[1]; ++i) largest = std::max(largest, tfidf.counts[static_cast<size_t>(i)]);
  CHECK(largest == static_cast<float>(TfIdfBuilder::kDocumentTermsMax + 1000 + 1));
}

}  // namespace
}  // namespace cbtm
