#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/threads.h"
#include "cbtm/corpus/document_batches.h"
#include "cbtm/dataset/indexed_dataset.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/run/cluster_manifest.h"

namespace cbtm {

std::vector<EvaluationDocument> run_documents(const RunDirectory& run, const std::string& split) {
  if (split != "train" && split != "valid" && split != "tune")
    fail_usage("--split {}: use train, valid or tune", split);
  std::vector<EvaluationDocument> documents;
  const ClusterManifest clusters = read_clusters(run);
  for (int64_t cluster = 0; cluster < clusters.clusters; ++cluster) {
    verify_shard(run, clusters, cluster, split);
    const IndexedDataset dataset(run.shard(cluster) / split);
    std::ifstream names(run.shard(cluster) / (split + ".documents.jsonl"));
    for (int64_t s = 0; s < dataset.sequences(); ++s) {
      std::string line;
      const Json entry = std::getline(names, line) ? Json::parse(line, nullptr, false) : Json();
      if (!entry.is_object() || !entry.contains("id") || !entry["id"].is_string())
        fail("{}: line {} is damaged or missing", (run.shard(cluster) / (split + ".documents.jsonl")).string(), s + 1);
      documents.push_back({entry["id"].get<std::string>(), dataset.sequence(s), cluster});
    }
  }
  if (documents.empty()) fail("{}: holds no {} documents; was it clustered?", run.root().string(), split);
  return documents;
}

std::vector<EvaluationDocument> corpus_documents(const CorpusOptions& corpus, const Tokenizer& tokenizer,
                                                 CorpusStatistics& statistics) {
  DocumentBatches batches(corpus, "reading the corpus");
  Progress progress("reading");
  std::vector<EvaluationDocument> documents;
  for (std::vector<Document> batch; batches.next(batch);) {
    const size_t first = documents.size();
    for (Document& document : batch) documents.push_back({std::move(document.id), {}});
    parallel_ranges(static_cast<int64_t>(batch.size()), 1e5, [&](int64_t begin, int64_t end) {
      Encoder encoder(tokenizer);
      for (int64_t i = begin; i < end; ++i) {
        std::vector<int32_t>& ids = documents[first + static_cast<size_t>(i)].ids;
        encoder.encode(batch[static_cast<size_t>(i)].text, {}, ids);
        ids.push_back(tokenizer.eos_id());
        ids.shrink_to_fit();  // all documents are held at once
      }
    });
    if (progress.seconds() > 1)
      progress.update(fmt::format("{} documents", format_count(static_cast<int64_t>(documents.size()))));
  }
  statistics = batches.reader().statistics();
  return documents;
}

}  // namespace cbtm
