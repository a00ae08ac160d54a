#include "cluster/tfidf.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "cbtm/base/threads.h"
#include "cluster/words.h"

namespace cbtm {

/// Term counts of one document, in the order of the terms' bytes.
struct TfIdfBuilder::Counts {
  std::map<std::string, int32_t, std::less<>> terms;
  int64_t long_terms = 0;
  bool cut = false;
};

TfIdfBuilder::Counts TfIdfBuilder::count_terms(const std::string& text) const {
  Counts counts;
  for_each_token(lower_case(text), [&](std::string_view token) {
    if (is_number(token)) return;
    if (static_cast<int64_t>(token.size()) > kTermBytesMax) {
      ++counts.long_terms;
      return;
    }
    const auto found = counts.terms.find(token);
    if (found != counts.terms.end()) {
      ++found->second;
      return;
    }
    std::string name(token);
    if (stop_words_.contains(name)) return;
    if (static_cast<int64_t>(counts.terms.size()) == kDocumentTermsMax)
      counts.cut = true;
    else
      counts.terms.emplace(std::move(name), 1);
  });
  return counts;
}

void TfIdfBuilder::add_row(const Counts& counts) {
  left_out_.documents += counts.cut ? 1 : 0;
  left_out_.long_terms += counts.long_terms;
  for (const auto& [name, count] : counts.terms) {
    auto place = id_of_.find(name);
    if (place == id_of_.end()) {
      const auto bytes = static_cast<int64_t>(name.size());
      if (static_cast<int64_t>(names_.size()) == kTermsMax || term_bytes_ + bytes > kAllTermBytesMax) {
        left_out_.full = true;
        continue;
      }
      term_bytes_ += bytes;
      place = id_of_.emplace(name, static_cast<int32_t>(names_.size())).first;
      names_.push_back(&place->first);
    }
    entries_.emplace_back(place->second, count);
  }
  row_ends_.push_back(static_cast<int64_t>(entries_.size()));
}

void TfIdfBuilder::add(const std::vector<std::string>& texts) {
  std::vector<Counts> counts(texts.size());
  parallel_ranges(static_cast<int64_t>(texts.size()), 1e5, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) counts[static_cast<size_t>(i)] = count_terms(texts[static_cast<size_t>(i)]);
  });
  for (const Counts& own : counts) add_row(own);
}

TfIdf TfIdfBuilder::finish(int64_t min_df) {
  const int64_t documents = rows();
  std::vector<int64_t> document_frequency(names_.size(), 0);
  for (const auto& [id, count] : entries_) ++document_frequency[static_cast<size_t>(id)];
  std::vector<int32_t> order;
  for (size_t id = 0; id < names_.size(); ++id)
    if (document_frequency[id] >= min_df) order.push_back(static_cast<int32_t>(id));
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return *names_[static_cast<size_t>(a)] < *names_[static_cast<size_t>(b)]; });

  TfIdf result;
  std::vector<int32_t> column_of(names_.size(), -1);
  for (const int32_t id : order) {
    column_of[static_cast<size_t>(id)] = static_cast<int32_t>(result.vocabulary.size());
    result.vocabulary.push_back(*names_[static_cast<size_t>(id)]);
    result.idf.push_back(std::log((1.0 + static_cast<double>(documents)) /
                                  (1.0 + static_cast<double>(document_frequency[static_cast<size_t>(id)]))) +
                         1.0);
  }
  int64_t begin = 0;
  std::vector<std::pair<int32_t, int32_t>> row;
  for (const int64_t end : row_ends_) {
    row.clear();
    for (int64_t entry = begin; entry < end; ++entry) {
      const auto& [id, count] = entries_[static_cast<size_t>(entry)];
      const int32_t column = column_of[static_cast<size_t>(id)];
      if (column >= 0) row.emplace_back(column, count);
    }
    begin = end;
    std::sort(row.begin(), row.end());
    for (const auto& [column, count] : row) {
      result.indices.push_back(column);
      result.counts.push_back(static_cast<float>(count));
    }
    result.indptr.push_back(static_cast<int64_t>(result.indices.size()));
  }
  return result;
}

}  // namespace cbtm
