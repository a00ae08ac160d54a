#include "cluster/tfidf.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "cbtm/base/threads.h"
#include "cluster/words.h"

namespace cbtm {

void TfIdfBuilder::add(const std::vector<std::string>& texts) {
  std::vector<std::map<std::string, int32_t, std::less<>>> counts(texts.size());
  parallel_ranges(static_cast<int64_t>(texts.size()), 1e5, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto& own = counts[static_cast<size_t>(i)];
      for_each_token(lower_case(texts[static_cast<size_t>(i)]), [&](std::string_view token) {
        if (is_number(token)) return;
        const auto found = own.find(token);
        if (found != own.end()) {
          ++found->second;
          return;
        }
        std::string name(token);
        if (!stop_words_.contains(name)) own.emplace(std::move(name), 1);
      });
    }
  });
  for (const auto& own : counts) {
    for (const auto& [name, count] : own) {
      const auto [place, fresh] = id_of_.try_emplace(name, static_cast<int32_t>(names_.size()));
      if (fresh) names_.push_back(&place->first);
      entries_.emplace_back(place->second, count);
    }
    row_ends_.push_back(static_cast<int64_t>(entries_.size()));
  }
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
