#include "prefix/prefix_documents.h"

#include <algorithm>
#include <memory>

#include "cbtm/base/threads.h"
#include "cbtm/corpus/document_batches.h"

namespace cbtm {

void Prefixes::add(std::span<const int32_t> prefix) {
  ids.insert(ids.end(), prefix.begin(), prefix.end());
  offsets.push_back(static_cast<int64_t>(ids.size()));
}

void read_prefixes(const CorpusOptions& corpus, const CorpusDigest& counted, const Tokenizer& tokenizer, int64_t tokens,
                   const std::string& stage, const std::function<bool(const Document&)>& wanted,
                   const std::function<void(const Prefixes&)>& batch) {
  std::vector<std::unique_ptr<Encoder>> encoders;
  for (int thread = 0; thread < thread_count(); ++thread) encoders.push_back(std::make_unique<Encoder>(tokenizer));
  DocumentBatches batches(corpus, stage, counted);
  for (std::vector<Document> documents; batches.next(documents);) {
    std::vector<std::vector<int32_t>> ids(documents.size());
    std::vector<uint8_t> taken(documents.size());
    parallel_ranges(static_cast<int64_t>(documents.size()), 1e5, [&](int64_t begin, int64_t end) {
      Encoder& encoder = *encoders[static_cast<size_t>(omp_get_thread_num())];
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        if (!wanted(documents[i])) continue;
        taken[i] = 1;
        encoder.encode(documents[i].text, {}, ids[i]);
        ids[i].resize(std::min(ids[i].size(), static_cast<size_t>(tokens)));
      }
    });
    Prefixes prefixes;
    for (size_t i = 0; i < documents.size(); ++i)
      if (taken[i] != 0) prefixes.add(ids[i]);
    batch(prefixes);
  }
}

}  // namespace cbtm
