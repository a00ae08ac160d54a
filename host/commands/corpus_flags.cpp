#include "commands/corpus_flags.h"

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "commands/prefix_flags.h"

namespace cbtm {

CorpusOptions corpus_options(const CommandLine& line) {
  CorpusOptions options;
  options.paths = line.get<std::vector<std::string>>("corpus");
  options.text_field = line.text("text-field");
  const std::string bad = line.text("on-bad-document");
  if (bad != "skip" && bad != "fail") fail_usage("--on-bad-document {}: use skip or fail", bad);
  options.on_bad_document = bad == "skip" ? OnBadDocument::skip : OnBadDocument::fail;
  options.bad_fraction_max = line.number("max-bad-fraction", 0, 1);
  options.document_bytes_max = parse_bytes(line.text("max-document-bytes"), "--max-document-bytes");
  constexpr int64_t kLongest = int64_t{1} << 30;
  if (options.document_bytes_max > kLongest) fail_usage("--max-document-bytes: at most 1G");
  options.keep_duplicates = line.get<bool>("keep-duplicates");
  if (line.common().json) options.exclude.push_back(*line.common().json);
  return options;
}

namespace {

/// The flags that do nothing for the clustering that was asked for are refused.
void check_clustering_flags(const CommandLine& line, Clustering clustering) {
  const auto refuse = [&](const char* flag, const char* why) {
    if (line.given(flag))
      fail_usage("--{} does nothing with --clustering {}: {}", flag, clustering_name(clustering), why);
  };
  if (clustering == Clustering::prefix) return;  // asks_for_prefix_router() has refused them
  if (!is_kmeans(clustering)) {
    refuse("balance-shards", clustering == Clustering::random ? "the shards are of equal size" : "domains are given");
    for (const char* flag : {"kmeans-init", "restarts"}) refuse(flag, "there is no k-means");
  }
  if (clustering != Clustering::domains) refuse("domain-field", "only domains have names");
}

}  // namespace

ClusterOptions cluster_options(const CommandLine& line, const CorpusOptions& corpus) {
  ClusterOptions options;
  options.corpus = corpus;
  options.clustering = asks_for_prefix_router(line) ? Clustering::prefix : parse_clustering(line.text("clustering"));
  if (line.get<bool>("unbalanced")) {
    if (line.given("clustering") && options.clustering != Clustering::unbalanced)
      fail_usage("--unbalanced is --clustering unbalanced, but --clustering {} was given too; leave one of them out",
                 line.text("clustering"));
    options.clustering = Clustering::unbalanced;
  }
  check_clustering_flags(line, options.clustering);
  options.clusters = line.integer("k", 1, 65'536);
  if (options.clustering == Clustering::domains) {
    if (!line.given("k")) options.clusters = 0;
    if (line.given("domain-field")) options.domain_field = line.text("domain-field");
    if (line.given("domain-field") && options.domain_field.empty())
      fail_usage("--domain-field needs the name of a field; leave it out to take directories as domains");
    if (options.domain_field == line.text("text-field"))
      fail_usage("--domain-field {}: is the field of the text", options.domain_field);
  }
  options.dimensions = line.integer("dimensions", 1, 4096);
  options.scaling = parse_embedding_scaling(line.text("embedding-scaling"));
  options.min_df = line.integer("min-df", 1);
  options.fit_documents = line.integer("fit-documents", 1);
  options.balance_shards = line.get<bool>("balance-shards");
  const std::string init = line.text("kmeans-init");
  if (init != "k-means++" && init != "random") fail_usage("--kmeans-init {}: use k-means++ or random", init);
  options.init = init == "random" ? KMeansInit::random : KMeansInit::plus_plus;
  options.restarts = line.integer("restarts", 1, 1000);
  options.valid_fraction = line.number("valid-fraction", 0, 0.25);
  options.seed = line.common().seed;
  return options;
}

TokenizerSource tokenizer_source(const CommandLine& line) {
  if (line.given("tokenizer")) {
    for (const char* flag : {"vocab-size", "min-frequency"})
      if (line.given(flag))
        fail_usage("--tokenizer {} is taken as it is, so --{} does nothing; leave one of them out",
                   line.text("tokenizer"), flag);
    return {.given = line.path("tokenizer")};
  }
  return {.vocab_size = line.integer("vocab-size", 260, 1 << 24), .min_frequency = line.integer("min-frequency", 0)};
}

}  // namespace cbtm
