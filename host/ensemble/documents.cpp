#include <charconv>
#include <cmath>
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
  const Json clusters = read_clusters(run);
  for (int64_t cluster = 0; cluster < clusters["clusters"].get<int64_t>(); ++cluster) {
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

namespace {

/// True if `text` is `prefix` and a number, nothing else.
template <typename Number>
bool number_after(std::string_view prefix, std::string_view text, Number& number) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

RoutingMode parse_routing_mode(const std::string& text) {
  if (text == "token") return {};
  if (text == "lagged") return {.schedule = RoutingSchedule::lagged};
  if (text == "prompt") return {.schedule = RoutingSchedule::prompt};
  RoutingMode mode;
  if (number_after("every:", text, mode.interval) && mode.interval >= 1) {
    mode.schedule = RoutingSchedule::every;
    return mode;
  }
  if (number_after("fraction:", text, mode.fraction) && mode.fraction > 0 && mode.fraction <= 1) {
    mode.schedule = RoutingSchedule::fraction;
    return mode;
  }
  fail_usage("--routing {}: use token, lagged, every:N, fraction:R (0 < R <= 1) or prompt", text);
}

int64_t routed_tokens(const RoutingMode& mode, int64_t n, int64_t length) {
  switch (mode.schedule) {
    case RoutingSchedule::token: return n;
    case RoutingSchedule::lagged: return std::max<int64_t>(0, n - 1);
    case RoutingSchedule::every: return n - n % mode.interval;
    case RoutingSchedule::fraction:
      return std::min(n, static_cast<int64_t>(std::floor(mode.fraction * static_cast<double>(length))));
    case RoutingSchedule::prompt: return std::min(n, length);
  }
  return n;
}

}  // namespace cbtm
