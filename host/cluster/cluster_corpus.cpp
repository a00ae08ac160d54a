#include "cbtm/cluster/cluster_corpus.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/threads.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cbtm/corpus/document_batches.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/run/cluster_manifest.h"
#include "cluster/document_map.h"
#include "cluster/fit.h"
#include "cluster/given_labels.h"
#include "cluster/shards.h"

namespace cbtm {
namespace {

/// The first pass: what there is. `domains` collects the documents' domains, if they are asked for.
CorpusDigest count_documents(const CorpusOptions& corpus, CorpusStatistics& statistics, DomainCounter& domains) {
  CorpusReader reader(corpus);
  Progress progress("reading");
  Document document;
  while (reader.next(document)) {
    if (corpus.domain_source != DomainSource::none) domains.add(document.domain);
    if (reader.statistics().documents % 1024 == 0)
      progress.update(fmt::format("{} documents", format_count(reader.statistics().documents)));
  }
  statistics = reader.statistics();
  progress.finish(fmt::format("{} documents, {} of text, {} duplicates dropped", format_count(statistics.documents),
                              format_count(statistics.text_bytes), format_count(statistics.duplicates)));
  warn_of_bad_documents(statistics);
  return reader.digest();
}

struct Routed {
  std::vector<double> distances;  ///< [documents, clusters]
  std::vector<uint8_t> empty;     ///< documents whose embedding is zero
};

Routed route_batch(const TfidfRouter& router, const std::vector<Document>& documents) {
  const int64_t clusters = router.clusters();
  Routed routed{std::vector<double>(documents.size() * static_cast<size_t>(clusters)),
                std::vector<uint8_t>(documents.size())};
  parallel_ranges(static_cast<int64_t>(documents.size()), 1e5, [&](int64_t begin, int64_t end) {
    std::vector<float> embedding(static_cast<size_t>(router.dimensions()));
    for (int64_t i = begin; i < end; ++i) {
      routed.empty[static_cast<size_t>(i)] = !router.embed(documents[static_cast<size_t>(i)].text, embedding);
      router.squared_distances(
          embedding,
          std::span(routed.distances).subspan(static_cast<size_t>(i * clusters), static_cast<size_t>(clusters)));
    }
  });
  return routed;
}

/// Equal shards: the whole corpus's distances, solved at once.
std::vector<int32_t> balanced_labels(Device& device, const TfidfRouter& router, const CorpusOptions& corpus,
                                     const CorpusDigest& counted) {
  std::vector<float> costs;
  DocumentBatches batches(corpus, "the distances of the documents", counted);
  for (std::vector<Document> documents; batches.next(documents);) {
    const Routed routed = route_batch(router, documents);
    costs.insert(costs.end(), routed.distances.begin(), routed.distances.end());
  }
  const DeviceMatrix on_device = DeviceMatrix::reading<float>(device, costs, counted.documents, "--balance-shards");
  return balanced_assignment(device, on_device.view(), equal_capacities(counted.documents, router.clusters())).labels;
}

struct Labelled {
  std::vector<ShardSize> sizes;
  int64_t empty = 0;
  double objective = 0;
};

/// Writes the shards into `directory`. `given`: the labels of the documents; empty: each goes to its nearest centre.
Labelled write_shards(Device& device, const TfidfRouter& router, const Tokenizer& tokenizer,
                      const ClusterOptions& options, const HeldOutSplit& split, const CorpusDigest& counted,
                      std::vector<int32_t> given, const std::filesystem::path& directory) {
  if (options.balance_shards && given.empty()) given = balanced_labels(device, router, options.corpus, counted);
  ShardWriter shards(directory, router.clusters(), tokenizer);
  std::vector<std::unique_ptr<Encoder>> encoders;
  for (int thread = 0; thread < thread_count(); ++thread) encoders.push_back(std::make_unique<Encoder>(tokenizer));
  Progress progress("shards");
  Labelled result;
  size_t done = 0;
  // No more documents than were counted come out of a pass, so that there is a label for each.
  DocumentBatches batches(options.corpus, "the shards", counted);
  for (std::vector<Document> documents; batches.next(documents);) {
    const Routed routed = route_batch(router, documents);
    std::vector<std::vector<int32_t>> ids(documents.size());
    parallel_ranges(static_cast<int64_t>(documents.size()), 1e5, [&](int64_t begin, int64_t end) {
      Encoder& encoder = *encoders[static_cast<size_t>(omp_get_thread_num())];
      for (int64_t i = begin; i < end; ++i) {
        encoder.encode(documents[static_cast<size_t>(i)].text, {}, ids[static_cast<size_t>(i)]);
        ids[static_cast<size_t>(i)].push_back(tokenizer.eos_id());
      }
    });
    for (size_t i = 0; i < documents.size(); ++i, ++done) {
      const auto clusters = static_cast<size_t>(router.clusters());
      const auto distances = std::span(routed.distances).subspan(i * clusters, clusters);
      const auto label =
          !given.empty()
              ? given[done]
              : static_cast<int32_t>(std::min_element(distances.begin(), distances.end()) - distances.begin());
      result.empty += routed.empty[i];
      result.objective += distances[static_cast<size_t>(label)];
      shards.add(label, split.side(documents[i].text), documents[i].id, ids[i]);
    }
    progress.update(
        fmt::format("{} of {} documents", format_count(static_cast<int64_t>(done)), format_count(counted.documents)));
  }
  result.sizes = shards.sizes();
  check_shards(result.sizes, options.allow_empty_shards);
  shards.commit();
  progress.finish(fmt::format("{} documents", format_count(static_cast<int64_t>(done))));
  return result;
}

/// A sample of the fitted documents, laid out in the plane for the report.
std::vector<MapDocument> map_sample(const Fit& fit) {
  constexpr int64_t kSample = 1000;
  const int64_t dimensions = fit.router->dimensions();
  const int64_t rows = static_cast<int64_t>(fit.labels.size());
  const int64_t stride = std::max<int64_t>(1, (rows + kSample - 1) / kSample);
  std::vector<float> embeddings;
  std::vector<int64_t> labels;
  for (int64_t row = 0; row < rows; row += stride) {
    const auto first = fit.embeddings.begin() + row * dimensions;
    embeddings.insert(embeddings.end(), first, first + dimensions);
    labels.push_back(fit.labels[static_cast<size_t>(row)]);
  }
  const auto places = document_map(embeddings, static_cast<int64_t>(labels.size()), dimensions);
  std::vector<MapDocument> map;
  for (size_t i = 0; i < labels.size(); ++i)
    map.push_back({std::round(places[i][0] * 1e2) / 1e2, std::round(places[i][1] * 1e2) / 1e2, labels[i]});
  return map;
}

/// The largest shard over the mean of all, in training tokens.
double shard_balance(std::span<const ShardSize> sizes) {
  int64_t largest = 0;
  int64_t total = 0;
  for (const ShardSize& size : sizes) {
    largest = std::max(largest, size.train_tokens);
    total += size.train_tokens;
  }
  return static_cast<double>(largest) * static_cast<double>(sizes.size()) /
         static_cast<double>(std::max<int64_t>(1, total));
}

}  // namespace

Json cluster_settings(const ClusterOptions& options) {
  Json settings = {{"k", options.clusters},
                   {"dimensions", options.dimensions},
                   {"min_df", options.min_df},
                   {"fit_documents", options.fit_documents},
                   {"valid_fraction", options.valid_fraction},
                   {"keep_duplicates", options.corpus.keep_duplicates},
                   {"seed", options.seed}};
  if (is_kmeans(options.clustering)) {  // without a name: as older sets have them, which are then still the same
    settings["balanced_fit"] = options.clustering == Clustering::balanced;
    settings["balance_shards"] = options.balance_shards;
    settings["init"] = options.init == KMeansInit::plus_plus ? "k-means++" : "random";
    settings["restarts"] = options.restarts;
  } else {
    settings["clustering"] = clustering_name(options.clustering);
    if (options.balance_shards) settings["balance_shards"] = true;
  }
  if (options.scaling != EmbeddingScaling::l2) settings["embedding_scaling"] = embedding_scaling_name(options.scaling);
  if (options.clustering == Clustering::domains) {
    settings["domain_field"] = options.domain_field.empty() ? Json() : Json(options.domain_field);
    if (options.clusters == 0) settings["k"] = nullptr;
  }
  if (!options.embedding.empty()) {  // what is in it counts, wherever it lies
    settings["embedding"] = TfidfRouter::load(options.embedding).content_hash();
    settings.erase("dimensions");
    settings.erase("min_df");
  }
  return settings;
}

ClusterManifest cluster_corpus(Device& device, const Tokenizer& tokenizer, const ClusterOptions& wanted,
                               const RunDirectory& run, const ClusterOrigin& origin, const DivideCorpus& divide) {
  CBTM_ASSERT(is_kmeans(wanted.clustering) || wanted.clustering == Clustering::prefix || !wanted.balance_shards,
              "the command line refuses it");
  CBTM_ASSERT((wanted.clustering == Clustering::prefix) == (divide != nullptr), "prefixes need their models");
  ClusterOptions options = wanted;
  if (options.clustering == Clustering::domains) {
    options.corpus.domain_source = options.domain_field.empty() ? DomainSource::directory : DomainSource::field;
    options.corpus.domain_field = options.domain_field;
  }
  CorpusStatistics statistics;
  DomainCounter domains;
  const CorpusDigest counted = count_documents(options.corpus, statistics, domains);
  const int64_t documents = counted.documents;
  GivenLabels given;
  if (options.clustering == Clustering::domains) {
    given = domains.finish(options.clusters);
    options.clusters = given.clusters;
  }
  if (documents < options.clusters)
    fail("--k {} needs at least as many documents, but the corpus holds {}", options.clusters, documents);
  const HeldOutSplit split = HeldOutSplit::for_corpus(documents, options.valid_fraction);
  if (split.valid_fraction > options.valid_fraction)
    say(
        fmt::format("held out: {:.1f} % of the documents for each of valid and tune, more than --valid-fraction {}, so "
                    "that each has about 50",
                    100 * split.valid_fraction, options.valid_fraction));
  if (options.clustering == Clustering::random)
    given = random_labels(options.corpus, split, counted, options.clusters, options.seed);
  RouterDivision division;
  if (divide) {
    division = divide(split, counted);
    given = {.labels = std::move(division.labels), .clusters = options.clusters, .domains = {}};
  }
  const Fit fit = fit_router(device, options, split, counted, is_kmeans(options.clustering) ? nullptr : &given);
  AtomicDirectory output(run.shards());
  const Labelled labelled =
      write_shards(device, *fit.router, tokenizer, options, split, counted, std::move(given.labels), output.path());

  ClusterManifest clusters = fit.summary;
  clusters.clustering = clustering_name(options.clustering);
  clusters.domains = given.domains;
  clusters.clusters = options.clusters;
  clusters.vocab_size = tokenizer.vocab_size();
  const Router& router = divide ? *division.router : *fit.router;
  if (divide) {
    clusters.fit_documents = division.documents;
    clusters.objectives = std::move(division.objectives);
    clusters.objective = clusters.objectives.empty() ? NAN : clusters.objectives.back();
    clusters.duality_gap = division.duality_gap;
  }
  clusters.router = router.kind();
  clusters.router_hash = router.content_hash();
  clusters.tokenizer_hash = tokenizer.content_hash();
  clusters.sizes = labelled.sizes;
  clusters.top_terms = fit.router->parts().top_terms;
  clusters.documents = documents;
  clusters.documents_without_words = labelled.empty;
  clusters.label_objective = labelled.objective;
  clusters.balance = shard_balance(labelled.sizes);
  clusters.valid_fraction = split.valid_fraction;
  clusters.tune_fraction = split.tune_fraction;
  clusters.map = map_sample(fit);
  clusters.corpus = corpus_statistics_json(statistics);
  clusters.settings = origin.settings;
  clusters.inputs = origin.inputs;
  clusters.command = origin.command;
  // Shards, router and clusters.json are one set, and appear in one rename; then their copies are brought up to date.
  const std::filesystem::path router_directory = output.path() / run.shards_router().filename();
  router.save(router_directory);
  if (divide) fit.router->save(router_directory / fit.router->kind());
  clusters.files = shard_hashes(output.path(), options.clusters);
  write_json_file(output.path() / run.shards_clusters_json().filename(), cluster_manifest_json(clusters));
  output.commit();
  publish_clusters(run);
  return clusters;
}

}  // namespace cbtm
