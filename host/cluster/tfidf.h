#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace cbtm {

/// Term counts of a set of documents and their idf (cbtm-method.md 1.1, 1.2). SparseRows makes the tf-idf rows of them.
struct TfIdf {
  std::vector<std::string> vocabulary;  ///< sorted by bytes
  std::vector<double> idf;              ///< ln((1 + n) / (1 + df)) + 1
  std::vector<int64_t> indptr = {0};
  std::vector<int32_t> indices;  ///< ascending within a row
  std::vector<float> counts;

  int64_t rows() const { return static_cast<int64_t>(indptr.size()) - 1; }
};

/// Collects term counts of documents in batches, on all threads, and makes the matrix at the end.
class TfIdfBuilder {
 public:
  explicit TfIdfBuilder(const std::vector<std::string>& stop_words)
      : stop_words_(stop_words.begin(), stop_words.end()) {}
  /// One row a text, in order.
  void add(const std::vector<std::string>& texts);
  int64_t rows() const { return static_cast<int64_t>(row_ends_.size()); }
  /// Terms of fewer than `min_df` documents are left out. The builder is used up.
  TfIdf finish(int64_t min_df);

 private:
  std::unordered_set<std::string> stop_words_;
  std::unordered_map<std::string, int32_t> id_of_;
  std::vector<const std::string*> names_;
  std::vector<int64_t> row_ends_;
  std::vector<std::pair<int32_t, int32_t>> entries_;  ///< provisional term id, count
};

}  // namespace cbtm
