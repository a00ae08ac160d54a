#include "commands/corpus_flags.h"

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/corpus/spool.h"
#include "commands/own_outputs.h"

namespace cbtm {

namespace {

/// The record of the stages that read the corpus, if they were made, holds what it was.
bool made_from_a_corpus(const RunDirectory& run) {
  for (const char* stage : {"tokenizer", "cluster"}) {
    const Json record = find_stage(run, stage);
    if (record.is_object() && record.contains("inputs") && record["inputs"].contains("corpus")) return true;
  }
  return false;
}

}  // namespace

void add_corpus_flags(CommandLine& line) {
  line.group("Corpus")(
      "corpus",
      "files, directories and pipes: JSON lines, JSON arrays, text, source; each also as gzip or zstd; "
      "- is stdin",
      list_flag(), "PATH...")("text-field", "field of a JSON line that holds the text", text_flag("text"), "NAME")(
      "on-bad-document", "skip (and count) or fail", text_flag("skip"), "WHAT")(
      "max-bad-fraction", "of documents that are bad, or of bytes in files that cannot be read: more is an error",
      number_flag("0.01"), "P")("max-document-bytes", "longer documents are bad ones", text_flag("64M"), "SIZE")(
      "keep-duplicates", "keep exact duplicates", switch_flag());
}

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

CorpusOptions corpus_options_of_run(const CommandLine& line, const RunDirectory& run, bool redo) {
  CorpusOptions options = corpus_options(line);
  options.exclude.push_back(run.root());
  check_corpus(options);
  exclude_own_outputs(options, run);
  spool_streams(options, run.root(), redo && made_from_a_corpus(run));
  return options;
}

void add_cluster_flags(CommandLine& line) {
  line.group("Clusters")("k", "number of clusters, and so of experts", integer_flag(8), "N")(
      "dimensions", "of the SVD that documents are compared in", integer_flag(100), "N")(
      "min-df", "leave out terms of fewer documents", integer_flag(1), "N")(
      "fit-documents", "fit on at most this many documents (all are labelled)", integer_flag(200'000), "N")(
      "unbalanced", "plain k-means instead of balanced", switch_flag())(
      "balance-shards", "equal shards, instead of each document to its nearest centre", switch_flag())(
      "kmeans-init", "start of k-means: k-means++ or random", text_flag("k-means++"), "WHAT")(
      "restarts", "starts of k-means; the best is kept", integer_flag(3), "N")(
      "valid-fraction", "of the documents held out for valid, and as many for tune; at least 50 each",
      number_flag("0.01"), "P");
}

ClusterOptions cluster_options(const CommandLine& line, const CorpusOptions& corpus) {
  ClusterOptions options;
  options.corpus = corpus;
  options.clusters = line.integer("k", 1, 65'536);
  options.dimensions = line.integer("dimensions", 1, 4096);
  options.min_df = line.integer("min-df", 1);
  options.fit_documents = line.integer("fit-documents", 1);
  options.balanced_fit = !line.get<bool>("unbalanced");
  options.balance_shards = line.get<bool>("balance-shards");
  const std::string init = line.text("kmeans-init");
  if (init != "k-means++" && init != "random") fail_usage("--kmeans-init {}: use k-means++ or random", init);
  options.init = init == "random" ? KMeansInit::random : KMeansInit::plus_plus;
  options.restarts = line.integer("restarts", 1, 1000);
  options.valid_fraction = line.number("valid-fraction", 0, 0.25);
  options.seed = line.common().seed;
  return options;
}

void add_tokenizer_flags(CommandLine& line) {
  line.group("Tokenizer")("tokenizer", "take this one (vocab.json, merges.txt) instead of learning one", text_flag(),
                          "DIR")("vocab-size", "tokens to learn", integer_flag(32'768), "N")(
      "min-frequency", "do not join pairs seen less often", integer_flag(2), "N");
}

}  // namespace cbtm
