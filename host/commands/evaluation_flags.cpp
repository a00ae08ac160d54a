#include "commands/evaluation_flags.h"

#include "cbtm/base/error.h"
#include "cbtm/corpus/file_name.h"
#include "cbtm/train/run_training.h"
#include "commands/corpus_flags.h"

namespace cbtm {

std::vector<EvaluationDocument> documents_of(const CommandLine& line, const Tokenizer& tokenizer,
                                             const std::filesystem::path& default_run, Json& described) {
  if (line.given("corpus")) {
    if (line.given("run")) fail_usage("give --run or --corpus, not both");
    const CorpusOptions corpus = corpus_options(line);
    CorpusStatistics statistics;
    std::vector<EvaluationDocument> documents = corpus_documents(corpus, tokenizer, statistics);
    warn_of_bad_documents(statistics);
    Json paths = Json::array();
    for (const std::string& path : corpus.paths) paths.push_back(utf8_name(path));
    described = {{"corpus", paths}, {"read", corpus_statistics_json(statistics)}};
    return documents;
  }
  const std::filesystem::path root = line.given("run") ? line.path("run") : default_run;
  if (root.empty() || !std::filesystem::exists(RunDirectory(root).shards()))
    fail_usage("say what to evaluate on: --run RUN --split valid, or --corpus PATH...");
  const RunDirectory run(root);
  if (const Json clusters = read_clusters(run); clusters["tokenizer_hash"] != tokenizer.content_hash())
    fail("{}: its documents were encoded with another tokenizer than the model's; use --corpus with the text itself",
         root.string());
  described = {{"run", root.string()}, {"split", line.text("split")}};
  return run_documents(run, line.text("split"));
}

const std::vector<double>& temperature_candidates() {
  static const std::vector<double> kCandidates = {0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0};
  return kCandidates;
}

void record_temperature(const Router& router, double temperature, double distance_power,
                        const std::filesystem::path& directory) {
  Mixture defaults = router.defaults();
  defaults.temperature = temperature;
  defaults.distance_power = distance_power;
  router.save(directory, defaults);
}

Json evaluation_json(const Evaluation& evaluation, const Json& settings, const Json& documents) {
  Json json = score_json(evaluation.scores.front(), /*with_documents=*/true);
  json["seconds"] = evaluation.seconds;
  json["tokens_read_by_experts"] = evaluation.tokens_read;
  json["settings"] = settings;
  json["settings"]["documents"] = documents;
  if (evaluation.scores.size() > 1)
    for (const Score& score : evaluation.scores) {
      Json entry = score_json(score, false);
      entry["top_k"] = score.mixture.top_k;
      json["sweep"].push_back(entry);
    }
  if (!evaluation.matrix.empty()) json["matrix"] = evaluation.matrix;
  return json;
}

}  // namespace cbtm
