#include "commands/corpus_flags.h"

#include <algorithm>
#include <cstdio>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {

void add_corpus_flags(CommandLine& line) {
  line.group("Corpus")("corpus", "files and directories: JSON lines, text, source; each also .gz or .zst; - is stdin",
                       list_flag(),
                       "PATH...")("text-field", "field of a JSON line that holds the text", text_flag("text"), "NAME")(
      "on-bad-document", "skip (and count) or fail", text_flag("skip"), "WHAT")("keep-duplicates",
                                                                                "keep exact duplicates", switch_flag());
}

CorpusOptions corpus_options(const CommandLine& line) {
  CorpusOptions options;
  options.paths = line.get<std::vector<std::string>>("corpus");
  options.text_field = line.text("text-field");
  const std::string bad = line.text("on-bad-document");
  if (bad != "skip" && bad != "fail") fail_usage("--on-bad-document {}: use skip or fail", bad);
  options.on_bad_document = bad == "skip" ? OnBadDocument::skip : OnBadDocument::fail;
  options.keep_duplicates = line.get<bool>("keep-duplicates");
  return options;
}

CorpusOptions corpus_options_spooled(const CommandLine& line, const std::filesystem::path& spool) {
  CorpusOptions options = corpus_options(line);
  const auto dash = std::find(options.paths.begin(), options.paths.end(), "-");
  if (dash == options.paths.end()) return options;
  say(fmt::format("keeping standard input in {}: the corpus is read more than once", spool.string()));
  AtomicFile file(spool);
  std::vector<char> buffer(1 << 16);
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), stdin)) file.write(buffer.data(), count);
  file.commit();
  *dash = spool.string();
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
