#include "cluster/given_labels.h"

#include <algorithm>
#include <queue>
#include <tuple>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/corpus/document_batches.h"

namespace cbtm {

GivenLabels random_labels(const CorpusOptions& corpus, const HeldOutSplit& split, const CorpusDigest& counted,
                          int64_t clusters, uint64_t seed) {
  constexpr uint64_t kShuffleSeed = 0x73706c6974;
  struct Drawn {
    uint64_t key;  ///< uniform, and different for different texts
    int64_t document;
  };
  std::vector<Drawn> by_split[3];
  DocumentBatches batches(corpus, "the random clusters", counted);
  int64_t count = 0;
  for (std::vector<Document> documents; batches.next(documents);)
    for (const Document& document : documents)
      by_split[static_cast<size_t>(split.side(document.text))].push_back(
          {hash64(document.text, kShuffleSeed ^ seed), count++});
  GivenLabels result{.labels = std::vector<int32_t>(static_cast<size_t>(count)), .clusters = clusters, .domains = {}};
  int64_t place = 0;  // goes on from split to split, so that the sizes of all together differ by at most one
  for (std::vector<Drawn>& drawn : by_split) {
    std::sort(drawn.begin(), drawn.end(),
              [](const Drawn& a, const Drawn& b) { return std::tie(a.key, a.document) < std::tie(b.key, b.document); });
    for (const Drawn& one : drawn)
      result.labels[static_cast<size_t>(one.document)] = static_cast<int32_t>(place++ % clusters);
  }
  return result;
}

void DomainCounter::add(const std::string& domain) {
  const auto [entry, is_new] = number_of_.try_emplace(domain, static_cast<int32_t>(number_of_.size()));
  if (is_new) {
    documents_.push_back(0);
    if (documents_.size() > kDomainsMax)
      fail(
          "the corpus names more than {} domains, for example '{}': they cannot each have an expert; name another "
          "--domain-field",
          kDomainsMax, domain);
  }
  ++documents_[static_cast<size_t>(entry->second)];
  labels_.push_back(entry->second);
}

GivenLabels DomainCounter::finish(int64_t clusters) {
  const auto domains = static_cast<int64_t>(number_of_.size());
  if (clusters > domains)
    fail("--k {}: the corpus names only {} domain{}; give a smaller --k, or none for one expert per domain", clusters,
         domains, domains == 1 ? "" : "s");
  // Groups of domains, by the place of their first name.
  std::vector<std::vector<std::string>> names;
  std::vector<std::vector<int32_t>> numbers;
  using Size = std::pair<int64_t, size_t>;  // documents, place
  std::priority_queue<Size, std::vector<Size>, std::greater<>> smallest;
  for (const auto& [name, number] : number_of_) {
    smallest.push({documents_[static_cast<size_t>(number)], names.size()});
    names.push_back({name});
    numbers.push_back({number});
  }
  for (int64_t left = domains; clusters > 0 && left > clusters; --left) {
    const Size a = smallest.top();
    smallest.pop();
    const Size b = smallest.top();
    smallest.pop();
    const size_t to = std::min(a.second, b.second), from = std::max(a.second, b.second);
    names[to].insert(names[to].end(), names[from].begin(), names[from].end());
    numbers[to].insert(numbers[to].end(), numbers[from].begin(), numbers[from].end());
    names[from].clear();
    smallest.push({a.first + b.first, to});
  }
  GivenLabels result;
  std::vector<int32_t> cluster_of(static_cast<size_t>(domains));
  for (size_t place = 0; place < names.size(); ++place) {
    if (names[place].empty()) continue;
    for (const int32_t number : numbers[place])
      cluster_of[static_cast<size_t>(number)] = static_cast<int32_t>(result.domains.size());
    std::sort(names[place].begin(), names[place].end());
    result.domains.push_back(std::move(names[place]));
  }
  result.clusters = static_cast<int64_t>(result.domains.size());
  result.labels = std::move(labels_);
  for (int32_t& label : result.labels) label = cluster_of[static_cast<size_t>(label)];
  return result;
}

}  // namespace cbtm
