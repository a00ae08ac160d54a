#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm::study {

/// The numbers of the two files as the page shows them: each in an element that says where it comes from.
class PageNumbers {
 public:
  PageNumbers(const Json& study, const Json& times) : study_(study), times_(times) {}

  const Json& study() const { return study_; }
  const Json& times() const { return times_; }

  // Of a JSON pointer, as HTML; "–" if there is no number.
  std::string perplexity(const std::string& pointer) const;  ///< "47.30"
  std::string percent(const std::string& pointer) const;     ///< "−3.21 %"
  std::string plain(const std::string& pointer) const;       ///< "0.512": four digits
  std::string count(const std::string& pointer) const;       ///< "16M"
  std::string whole(const std::string& pointer) const;       ///< "12"
  std::string seconds(const std::string& pointer) const;     ///< "812", of study-times.json
  /// "−3.21 % [−4.02, −2.50]": the members percent, low and high of the object there.
  std::string change(const std::string& pointer) const;
  /// The same of value, low and high.
  std::string estimate(const std::string& pointer) const;
  /// "47.3 / 47.9 / 46.8": the items of a list, as perplexities.
  std::string perplexities(const std::string& pointer) const;
  /// As changes in percent, without the sign of percent; or plain.
  std::string changes(const std::string& pointer) const;
  std::string plains(const std::string& pointer) const;

  /// The number there, or NaN.
  double value(const std::string& pointer) const;

 private:
  using Format = std::string (*)(double);
  std::string shown(const std::string& pointer, Format format) const;
  std::string joined(const std::string& pointer, Format format) const;
  std::string with_interval(const std::string& pointer, const char* name, Format format, Format of_bounds) const;

  const Json& study_;
  const Json& times_;
};

/// What the cells of a table hold. Numbers stand at the right and do not wrap; texts and names of rows that are
/// sentences wrap.
enum class TableOf { numbers, numbers_by_sentence, texts };

/// A table: names of the columns, and rows of HTML cells, of which the first is the row's name.
std::string page_table(const std::string& label, const std::vector<std::string>& columns,
                       const std::vector<std::vector<std::string>>& rows, TableOf cells = TableOf::numbers);

/// Which entries of study.json a section shows: indices, in the file's order.
struct EntryFilter {
  std::optional<std::string> kind, clustering, router;
  std::optional<int64_t> k, budget, top_k;
  std::optional<bool> larger, main;
};
std::vector<size_t> entries_where(const Json& study, const EntryFilter& filter);

/// "/entries/12", and the value of a key of it.
std::string entry_pointer(size_t entry);

/// The clustering that the curves over k are of: the first k-means in the configuration.
std::string learned_clustering(const Json& study);

/// "balanced, k = 4", "dense", "larger dense".
std::string system_text(const Json& entry);

}  // namespace cbtm::study
