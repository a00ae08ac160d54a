#include "cluster/fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/threads.h"
#include "cbtm/corpus/document_batches.h"
#include "cbtm/device/cluster_operators.h"
#include "cluster/sparse_rows.h"
#include "cluster/svd.h"
#include "cluster/tfidf.h"
#include "cluster/words.h"

namespace cbtm {
namespace {

/// The vocabulary is bounded (TfIdfBuilder); where that is felt, a person is told.
void warn_of_left_out_terms(const TfIdfBuilder::LeftOut& left_out) {
  if (left_out.documents > 0)
    warn(
        fmt::format("{} documents have more than {} different terms each; of these, the further ones are left out of "
                    "tf-idf",
                    format_count(left_out.documents), format_count(TfIdfBuilder::kDocumentTermsMax)));
  if (left_out.long_terms > 0)
    warn(fmt::format("{} terms longer than {} bytes are left out of tf-idf", format_count(left_out.long_terms),
                     format_count(TfIdfBuilder::kTermBytesMax)));
  if (left_out.full)
    warn(
        fmt::format("the vocabulary of tf-idf is full ({} terms, or {} of them): terms that came later are left out; "
                    "fewer --fit-documents make it smaller",
                    format_count(TfIdfBuilder::kTermsMax), format_bytes(TfIdfBuilder::kAllTermBytesMax)));
}

struct Fitted {
  TfIdf tfidf;
  std::vector<int32_t> labels;  ///< of its rows, if labels were given
};

/// The documents that everything is fitted on: of the train side, drawn by hash.
class FitSample {
 public:
  FitSample(const ClusterOptions& options, const HeldOutSplit& split, const CorpusDigest& counted)
      : split_(split), seed_(0x666974 ^ options.seed) {
    const double train_documents =
        static_cast<double>(counted.documents) * (1 - split.valid_fraction - split.tune_fraction);
    share_ = std::min(1.0, static_cast<double>(options.fit_documents) / std::max(1.0, train_documents));
  }
  bool holds(const std::string& text) const {
    return split_.side(text) == Split::train && static_cast<double>(hash64(text, seed_)) * 0x1p-64 < share_;
  }

 private:
  const HeldOutSplit& split_;
  uint64_t seed_;
  double share_ = 1;
};

Fitted read_tfidf(const ClusterOptions& options, const HeldOutSplit& split, const CorpusDigest& counted,
                  const GivenLabels* given) {
  const FitSample sample(options, split, counted);
  TfIdfBuilder builder(english_stop_words());
  DocumentBatches batches(options.corpus, "tf-idf", counted);
  Progress progress("tf-idf");
  std::vector<std::string> texts;
  std::vector<int32_t> labels;
  size_t place = 0;
  for (std::vector<Document> documents; batches.next(documents);) {
    texts.clear();
    for (Document& document : documents) {
      const size_t ordinal = place++;
      if (!sample.holds(document.text)) continue;
      texts.push_back(std::move(document.text));
      if (given != nullptr) labels.push_back(given->labels[ordinal]);
    }
    builder.add(texts);
    progress.update(fmt::format("{} documents", format_count(builder.rows())));
  }
  TfIdf tfidf = builder.finish(options.min_df);
  progress.finish(fmt::format("{} documents, {} terms", format_count(tfidf.rows()),
                              format_count(static_cast<int64_t>(tfidf.vocabulary.size()))));
  warn_of_left_out_terms(builder.left_out());
  if (tfidf.vocabulary.empty())
    fail("the corpus holds no words to cluster by (only stop words, numbers or single letters)");
  return {std::move(tfidf), std::move(labels)};
}

/// The rows of A V, of length 1 if they are to be l2. Rows that are rounding noise are left out; `kept` marks the
/// others.
std::vector<float> embed_rows(Device& device, const SparseMatrix& tfidf, const std::vector<float>& components,
                              int64_t dimensions, EmbeddingScaling scaling, std::vector<uint8_t>& kept_rows) {
  std::vector<float> projected;
  {
    const char* purpose = "embeddings of the documents (--fit-documents)";
    const DeviceMatrix on_device = DeviceMatrix::reading_rows<float>(device, components, tfidf.columns, purpose);
    const DeviceMatrix out = DeviceMatrix::padded(device, DType::f32, tfidf.rows, dimensions, purpose);
    device.cluster_operators().sparse_times_dense(tfidf, on_device.view(), out.view());
    projected = out.to_host<float>();
  }
  constexpr double kNoise = 1e-6;  // of the tf-idf row, whose length is 1
  int64_t kept = 0;
  kept_rows.assign(static_cast<size_t>(tfidf.rows), 0);
  for (int64_t row = 0; row < tfidf.rows; ++row) {
    const float* from = projected.data() + row * dimensions;
    double square = 0;
    for (int64_t d = 0; d < dimensions; ++d) square += static_cast<double>(from[d]) * static_cast<double>(from[d]);
    if (std::sqrt(square) < kNoise) continue;
    kept_rows[static_cast<size_t>(row)] = 1;
    float* to = projected.data() + kept++ * dimensions;
    const double length = scaling == EmbeddingScaling::l2 ? std::sqrt(square) : 1;
    for (int64_t d = 0; d < dimensions; ++d) to[d] = static_cast<float>(static_cast<double>(from[d]) / length);
  }
  projected.resize(static_cast<size_t>(kept * dimensions));
  return projected;
}

/// Subtracts the mean of each dimension, divides by its standard deviation (over n rows, not n - 1), and keeps both in
/// `parts`. A dimension that does not vary is divided by 1.
void standardise(std::vector<float>& rows, int64_t dimensions, TfidfRouter::Parts& parts) {
  const auto columns = static_cast<size_t>(dimensions);
  const auto count = static_cast<double>(std::max<size_t>(1, rows.size() / columns));
  for (size_t d = 0; d < columns; ++d) {
    double sum = 0, squares = 0;
    for (size_t at = d; at < rows.size(); at += columns) sum += static_cast<double>(rows[at]);
    const double mean = sum / count;
    for (size_t at = d; at < rows.size(); at += columns)
      squares += (static_cast<double>(rows[at]) - mean) * (static_cast<double>(rows[at]) - mean);
    const auto deviation = static_cast<float>(std::sqrt(squares / count));
    parts.mean.push_back(static_cast<float>(mean));
    parts.deviation.push_back(deviation > 0 ? deviation : 1);
    for (size_t at = d; at < rows.size(); at += columns)
      rows[at] = static_cast<float>((static_cast<double>(rows[at]) - static_cast<double>(parts.mean[d])) /
                                    static_cast<double>(parts.deviation[d]));
  }
}

/// The terms that describe a centre best: the largest entries of c Vᵀ (docs/method.md, 'Top terms').
std::vector<std::vector<std::string>> top_terms(const TfidfRouter::Parts& parts) {
  constexpr size_t kTerms = 10;
  std::vector<std::vector<std::string>> result(static_cast<size_t>(parts.clusters));
  parallel_ranges(parts.clusters, static_cast<double>(parts.vocabulary.size()) * 100, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<double, size_t>> scores(parts.vocabulary.size());
    for (int64_t cluster = begin; cluster < end; ++cluster) {
      for (size_t term = 0; term < scores.size(); ++term) {
        double score = 0;
        for (int64_t d = 0; d < parts.dimensions; ++d)
          score += static_cast<double>(
                       parts.components[term * static_cast<size_t>(parts.dimensions) + static_cast<size_t>(d)]) *
                   static_cast<double>(parts.centroids[static_cast<size_t>(cluster * parts.dimensions + d)]) *
                   (parts.deviation.empty() ? 1 : static_cast<double>(parts.deviation[static_cast<size_t>(d)]));
        scores[term] = {-score, term};
      }
      const auto count = static_cast<int64_t>(std::min(kTerms, scores.size()));
      std::partial_sort(scores.begin(), scores.begin() + count, scores.end());
      for (int64_t i = 0; i < count; ++i)
        result[static_cast<size_t>(cluster)].push_back(parts.vocabulary[scores[static_cast<size_t>(i)].second]);
    }
  });
  return result;
}

KMeansResult run_kmeans(Device& device, const ClusterOptions& options, const std::vector<float>& embeddings,
                        int64_t dimensions) {
  Progress progress("k-means");
  KMeansOptions kmeans_options{.clusters = options.clusters,
                               .balanced = options.clustering == Clustering::balanced,
                               .init = options.init,
                               .restarts = options.restarts,
                               .seed = options.seed};
  kmeans_options.progress = [&](int64_t restart, int64_t iteration, double objective) {
    progress.update(fmt::format("start {} of {}, iteration {}, objective {:.1f}", restart + 1, options.restarts,
                                iteration + 1, objective));
  };
  KMeansResult result = kmeans(device, embeddings, dimensions, kmeans_options);
  progress.finish(
      fmt::format("objective {:.1f} after {} iterations, start {} of {}; distance from the optimal balanced assignment "
                  "at most {:.1g}",
                  result.objective(), result.objectives.size(), result.restart + 1, options.restarts,
                  std::abs(result.relative_gap)));
  return result;
}

/// The labels of the rows that are marked.
std::vector<int32_t> kept_labels(const std::vector<int32_t>& labels, const std::vector<uint8_t>& kept) {
  std::vector<int32_t> result;
  for (size_t row = 0; row < labels.size(); ++row)
    if (kept[row] != 0) result.push_back(labels[row]);
  return result;
}

/// What k-means would return for these labels: centres are means of their rows, in float64.
KMeansResult given_centres(const std::vector<float>& embeddings, int64_t dimensions, std::vector<int32_t> labels,
                           int64_t clusters) {
  const auto columns = static_cast<size_t>(dimensions);
  std::vector<double> sums(static_cast<size_t>(clusters) * columns), total(columns);
  std::vector<int64_t> rows(static_cast<size_t>(clusters));
  for (size_t row = 0; row < labels.size(); ++row) {
    const auto label = static_cast<size_t>(labels[row]);
    ++rows[label];
    for (size_t d = 0; d < columns; ++d) {
      const auto value = static_cast<double>(embeddings[row * columns + d]);
      sums[label * columns + d] += value;
      total[d] += value;
    }
  }
  const auto count = static_cast<double>(std::max<size_t>(1, labels.size()));
  int64_t without = 0;
  for (size_t j = 0; j < rows.size(); ++j) {
    if (rows[j] == 0) ++without;
    for (size_t d = 0; d < columns; ++d)
      sums[j * columns + d] = rows[j] > 0 ? sums[j * columns + d] / static_cast<double>(rows[j]) : total[d] / count;
  }
  if (without > 0)
    warn(
        fmt::format("{} of {} clusters have no document with words among the fitted ones; the router's centre for "
                    "them is the mean of all documents",
                    without, clusters));
  KMeansResult result{.centroids = {sums.begin(), sums.end()}, .labels = std::move(labels)};
  double objective = 0;
  for (size_t row = 0; row < result.labels.size(); ++row)
    for (size_t d = 0; d < columns; ++d) {
      const double centre =
          static_cast<double>(result.centroids[static_cast<size_t>(result.labels[row]) * columns + d]);
      const double difference = static_cast<double>(embeddings[row * columns + d]) - centre;
      objective += difference * difference;
    }
  result.objectives = {objective};
  return result;
}

/// What clusters are found in: the space that documents lie in, and the fitted ones there.
struct Embedded {
  TfidfRouter::Parts parts;       ///< but for the clusters
  std::vector<float> embeddings;  ///< [documents that could be used, dimensions]
  std::vector<int32_t> labels;    ///< of those, if labels were given
  ClusterManifest summary;        ///< its numbers of the space only
};

Embedded fit_embedding(Device& device, const ClusterOptions& options, const HeldOutSplit& split,
                       const CorpusDigest& counted, const GivenLabels* given) {
  const Fitted fitted = read_tfidf(options, split, counted, given);
  const TfIdf& tfidf = fitted.tfidf;
  say("SVD of the tf-idf matrix ...");
  const SparseRows rows(device, tfidf);
  const TruncatedSvd svd = truncated_svd(device, rows, {.dimensions = options.dimensions, .seed = options.seed});
  Embedded result;
  result.parts.vocabulary = tfidf.vocabulary;
  result.parts.idf.assign(tfidf.idf.begin(), tfidf.idf.end());
  result.parts.dimensions = svd.dimensions;
  result.parts.components = svd.components;
  result.parts.stop_words = english_stop_words();
  std::vector<uint8_t> kept;
  result.parts.scaling = options.scaling;
  result.embeddings = embed_rows(device, rows.matrix(), svd.components, svd.dimensions, options.scaling, kept);
  if (options.scaling == EmbeddingScaling::standardised) standardise(result.embeddings, svd.dimensions, result.parts);
  if (given != nullptr) result.labels = kept_labels(fitted.labels, kept);
  result.summary.fit_documents = tfidf.rows();
  result.summary.fit_documents_without_words = std::count(kept.begin(), kept.end(), uint8_t{0});
  result.summary.svd_iterations = svd.iterations;
  return result;
}

/// The same documents in the space of a router that is there already.
Embedded take_embedding(const ClusterOptions& options, const HeldOutSplit& split, const CorpusDigest& counted,
                        const GivenLabels* given) {
  const TfidfRouter router = TfidfRouter::load(options.embedding);
  const auto columns = static_cast<size_t>(router.dimensions());
  const FitSample sample(options, split, counted);
  Embedded result{.parts = router.parts()};
  result.parts.extra = Json::object();  // of that router alone
  DocumentBatches batches(options.corpus, "the embeddings", counted);
  Progress progress("embedding");
  std::vector<std::string> texts;
  std::vector<int32_t> labels;
  int64_t read = 0;
  size_t place = 0;
  for (std::vector<Document> documents; batches.next(documents);) {
    texts.clear();
    labels.clear();
    for (Document& document : documents) {
      const size_t ordinal = place++;
      if (!sample.holds(document.text)) continue;
      texts.push_back(std::move(document.text));
      if (given != nullptr) labels.push_back(given->labels[ordinal]);
    }
    std::vector<float> embedded(texts.size() * columns);
    parallel_ranges(static_cast<int64_t>(texts.size()), 1e5, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
        router.embed(texts[i], std::span(embedded).subspan(i * columns, columns));
    });
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto row = embedded.begin() + static_cast<int64_t>(i * columns);
      if (std::all_of(row, row + router.dimensions(), [](float value) { return value == 0; })) continue;
      result.embeddings.insert(result.embeddings.end(), row, row + router.dimensions());
      if (given != nullptr) result.labels.push_back(labels[i]);
    }
    read += static_cast<int64_t>(texts.size());
    progress.update(fmt::format("{} documents", format_count(read)));
  }
  const auto kept = static_cast<int64_t>(result.embeddings.size() / columns);
  progress.finish(fmt::format("{} documents in {} dimensions", format_count(kept), columns));
  if (kept == 0)
    fail("{}: knows none of the corpus's words, so that there is nothing to cluster by", options.embedding.string());
  result.summary.fit_documents = read;
  result.summary.fit_documents_without_words = read - kept;
  return result;
}

}  // namespace

Fit fit_router(Device& device, const ClusterOptions& options, const HeldOutSplit& split, const CorpusDigest& counted,
               const GivenLabels* given) {
  Embedded space = options.embedding.empty() ? fit_embedding(device, options, split, counted, given)
                                             : take_embedding(options, split, counted, given);
  TfidfRouter::Parts& parts = space.parts;
  const KMeansResult result =
      given != nullptr ? given_centres(space.embeddings, parts.dimensions, std::move(space.labels), given->clusters)
                       : run_kmeans(device, options, space.embeddings, parts.dimensions);
  parts.centroids = result.centroids;
  parts.clusters = given != nullptr ? given->clusters : options.clusters;
  parts.top_terms = top_terms(parts);
  Fit fit;
  fit.embeddings = std::move(space.embeddings);
  fit.labels = result.labels;
  fit.summary = std::move(space.summary);
  fit.summary.terms = static_cast<int64_t>(parts.vocabulary.size());
  fit.summary.dimensions = parts.dimensions;
  fit.summary.objective = result.objectives.back();
  fit.summary.objectives = result.objectives;
  if (given == nullptr) fit.summary.duality_gap = result.relative_gap;
  Mixture defaults;
  if (parts.scaling == EmbeddingScaling::standardised) defaults.temperature *= static_cast<double>(parts.dimensions);
  fit.router = std::make_unique<TfidfRouter>(std::move(parts), defaults);
  return fit;
}

}  // namespace cbtm
