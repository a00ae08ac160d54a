#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace cbtm {

/// Term counts of a set of documents and their idf (docs/method.md, 'Words and tf-idf'). SparseRows makes the tf-idf
/// rows of them.
struct TfIdf {
  std::vector<std::string> vocabulary;  ///< sorted by bytes
  std::vector<double> idf;              ///< ln((1 + n) / (1 + df)) + 1
  std::vector<int64_t> indptr = {0};
  std::vector<int32_t> indices;  ///< ascending within a row
  std::vector<float> counts;

  int64_t rows() const { return static_cast<int64_t>(indptr.size()) - 1; }
};

/// Collects term counts of documents in batches, on all threads, and makes the matrix at the end.
/// Memory: 8 bytes for each different term of each document, and for the vocabulary about 100 bytes a term with at most
/// kTermsMax terms. What the limits below leave out is counted.
class TfIdfBuilder {
 public:
  static constexpr int64_t kDocumentTermsMax = 1 << 18;          ///< different terms of one document
  static constexpr int64_t kTermsMax = 1 << 22;                  ///< terms of the vocabulary
  static constexpr int64_t kTermBytesMax = 1024;                 ///< bytes of one term
  static constexpr int64_t kAllTermBytesMax = int64_t{1} << 28;  ///< bytes of all terms

  struct LeftOut {
    int64_t documents = 0;   ///< with more terms than kDocumentTermsMax: their first ones count
    int64_t long_terms = 0;  ///< times that a term longer than kTermBytesMax was met
    bool full = false;       ///< the vocabulary has no room for terms that came later
  };

  explicit TfIdfBuilder(const std::vector<std::string>& stop_words)
      : stop_words_(stop_words.begin(), stop_words.end()) {}
  /// One row a text, in order.
  void add(const std::vector<std::string>& texts);
  int64_t rows() const { return static_cast<int64_t>(row_ends_.size()); }
  const LeftOut& left_out() const { return left_out_; }
  /// Terms of fewer than `min_df` documents are left out. The builder is used up.
  TfIdf finish(int64_t min_df);

 private:
  struct Counts;
  Counts count_terms(const std::string& text) const;
  void add_row(const Counts& counts);

  std::unordered_set<std::string> stop_words_;
  std::unordered_map<std::string, int32_t> id_of_;
  std::vector<const std::string*> names_;
  std::vector<int64_t> row_ends_;
  std::vector<std::pair<int32_t, int32_t>> entries_;  ///< provisional term id, count
  int64_t term_bytes_ = 0;
  LeftOut left_out_;
};

}  // namespace cbtm
