#include "commands/evaluation_flags.h"

#include "cbtm/base/error.h"
#include "cbtm/corpus/file_name.h"
#include "cbtm/run/cluster_manifest.h"
#include "commands/corpus_flags.h"
#include "commands/expert_flags.h"

namespace cbtm {

void check_document_flags(const CommandLine& line) {
  if (line.given("corpus")) {
    if (line.given("run")) fail_usage("give --run or --corpus, not both");
    if (line.given("split")) fail_usage("--split names documents of a run, so it does nothing with --corpus");
    return;
  }
  for (const char* flag :
       {"text-field", "on-bad-document", "max-bad-fraction", "max-document-bytes", "keep-duplicates"})
    if (line.given(flag)) fail_usage("--{} does nothing without --corpus", flag);
}

std::vector<EvaluationDocument> documents_of(const CommandLine& line, const Tokenizer& tokenizer,
                                             const std::filesystem::path& default_run, Json& described,
                                             const std::string& default_split) {
  if (line.given("corpus")) {
    const CorpusOptions corpus = corpus_options(line);
    CorpusStatistics statistics;
    std::vector<EvaluationDocument> documents = corpus_documents(corpus, tokenizer, statistics);
    warn_of_bad_documents(statistics);
    Json paths = Json::array();
    for (const std::string& path : corpus.paths) paths.push_back(utf8_name(path));
    described = {{"corpus", paths}, {"read", corpus_statistics_json(statistics)}};
    return documents;
  }
  const std::filesystem::path given = given_run(line);
  const std::filesystem::path& root = given.empty() ? default_run : given;
  if (root.empty() || !std::filesystem::exists(RunDirectory(root).shards()))
    fail_usage("say what to evaluate on: --run RUN --split valid, or --corpus PATH...");
  const RunDirectory run(root);
  if (const ClusterManifest clusters = read_clusters(run); clusters.tokenizer_hash != tokenizer.content_hash())
    fail("{}: its documents were encoded with another tokenizer than the model's; use --corpus with the text itself",
         root.string());
  const std::string split = line.given("split") ? line.text("split") : default_split;
  described = {{"run", root.string()}, {"split", split}};
  return run_documents(run, split);
}

}  // namespace cbtm
