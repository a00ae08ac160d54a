#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

/// Clusters that do not come from k-means.
struct GivenLabels {
  std::vector<int32_t> labels;  ///< of each document, in the order of reading
  int64_t clusters = 0;
  std::vector<std::vector<std::string>> domains;  ///< the names of each cluster's domains; empty without domains
};

/// A partition drawn with `seed`: each of the three splits, and so the whole corpus, is divided into parts whose sizes
/// differ by at most one. It depends on the documents' texts, and on their order only where texts are equal. Reads the
/// corpus once. Memory: 16 bytes per document.
GivenLabels random_labels(const CorpusOptions& corpus, const HeldOutSplit& split, const CorpusDigest& counted,
                          int64_t clusters, uint64_t seed);

/// Collects the domains of documents in the order of reading.
class DomainCounter {
 public:
  static constexpr size_t kDomainsMax = 65'536;

  /// Throws Error if there are more than kDomainsMax domains.
  void add(const std::string& domain);

  /// One cluster per domain, in the order of their names. If `clusters` is not 0, the two smallest clusters, counted in
  /// documents, are joined until that many are left. A joined cluster takes the place of its first name. Throws Error
  /// if there are fewer domains than that.
  GivenLabels finish(int64_t clusters);

 private:
  std::map<std::string, int32_t> number_of_;  ///< in the order of their first documents
  std::vector<int64_t> documents_;            ///< by that number
  std::vector<int32_t> labels_;               ///< that number, of each document
};

}  // namespace cbtm
