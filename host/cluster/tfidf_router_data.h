#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cbtm/cluster/tfidf_router.h"

namespace cbtm {

struct TfidfRouter::Data {
  Parts parts;
  Mixture defaults;
  std::unordered_map<std::string_view, int32_t> column_of;  ///< of parts.vocabulary's words
  size_t term_bytes_max = 0;
  std::string content_hash;
};

/// The unnormalised embedding of the words so far: Σ idf · components row, and the squared length of their tf-idf row.
struct TermSum {
  std::vector<double> sum;  ///< [dimensions], or empty: no term yet
  double square = 0;
  std::unordered_map<int32_t, int64_t> counts;  ///< by column

  /// Adds the terms of lower-cased text. Stop words and numbers are in no vocabulary.
  void add(const TfidfRouter::Data& data, std::string_view lowered);
  void add_term(const TfidfRouter::Data& data, int32_t column);
  /// As TfidfRouter::embed.
  bool embedding(const TfidfRouter::Parts& parts, std::span<double> out) const;
};

void squared_distances_of(const TfidfRouter::Parts& parts, std::span<const double> embedding, std::span<double> out);

}  // namespace cbtm
