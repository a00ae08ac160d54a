#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// A document to score: tokens of its text, closed by eos. The first token is context only (docs/method.md,
/// 'Evaluation').
struct EvaluationDocument {
  std::string id;
  std::vector<int32_t> ids;
  int64_t cluster = -1;  ///< its shard, or -1 where that is not known
};

/// All documents of a split ("train", "valid", "tune") of a run's shards.
std::vector<EvaluationDocument> run_documents(const RunDirectory& run, const std::string& split);
/// Documents of corpus files, read once; `statistics` gets what was read. Memory: 4 bytes for each token, and a batch
/// of texts.
std::vector<EvaluationDocument> corpus_documents(const CorpusOptions& corpus, const Tokenizer& tokenizer,
                                                 CorpusStatistics& statistics);

/// When the weights of a token are taken from the text so far (the token at place n is predicted from n tokens):
enum class RoutingSchedule : uint8_t {
  token,     ///< from all n
  lagged,    ///< from n - 1: what the original code does
  every,     ///< from n - n mod interval
  fraction,  ///< from min(n, floor(fraction * length))
  prompt     ///< generation: from the prompt, once
};
struct RoutingMode {
  RoutingSchedule schedule = RoutingSchedule::token;
  int64_t interval = 1;
  double fraction = 1;
};
/// "token", "lagged", "every:16", "fraction:0.5", "prompt". Throws a usage Error.
RoutingMode parse_routing_mode(const std::string& text);
/// How many tokens of the text the weights for place n come from; `length`: tokens of the document (or, generating, of
/// the prompt).
int64_t routed_tokens(const RoutingMode& mode, int64_t n, int64_t length);

/// One way to mix the experts.
struct Mixture {
  int64_t top_k = 2;  ///< as many as are present means all
  double temperature = 0.1;
  double distance_power = 2;
};

struct DocumentScore {
  std::string id;
  int64_t tokens = 0;                  ///< scored
  double negative_log_likelihood = 0;  ///< sum, nats
  std::vector<double> expert_weights;  ///< mean over its tokens, by cluster
};

struct Score {
  Mixture mixture;
  double negative_log_likelihood = 0;
  int64_t tokens = 0;
  std::vector<DocumentScore> documents;
  double perplexity() const;
};

struct EvaluationOptions {
  std::vector<Mixture> mixtures;
  RoutingMode routing;
  int64_t length_max = 0;    ///< tokens of a document that are read; 0: what the experts were trained on
  bool matrix = false;       ///< every expert on every document
  int64_t memory_bytes = 0;  ///< may be used for experts' weights; 0: half of what is free (see ExpertPool)
  /// Told for every document of the first mixture: id, targets' log-probabilities, weights [targets, clusters].
  std::function<void(const EvaluationDocument&, const std::vector<double>&, const std::vector<double>&)> token_details;
};

struct Evaluation {
  std::vector<Score> scores;                ///< one a mixture
  std::vector<std::vector<double>> matrix;  ///< perplexity [expert, cluster of the documents], NaN where there is none
  int64_t tokens_read = 0;                  ///< by all experts together: the work that was done
  double seconds = 0;
};

/// Perplexity of the ensemble. Routing needs the text alone, so it is done first; then each expert reads just the
/// documents, up to the last token, that need it, in large batches.
Evaluation evaluate_ensemble(Device& device, const ExpertSet& experts, const std::vector<EvaluationDocument>& documents,
                             const EvaluationOptions& options);

/// The same of one model.
Evaluation evaluate_model(InferenceModel& model, const std::vector<EvaluationDocument>& documents, int64_t length_max);

/// The temperature of the lowest perplexity on these documents among `candidates`, all else as in options.mixtures[0].
double tune_temperature(Device& device, const ExpertSet& experts, const std::vector<EvaluationDocument>& documents,
                        EvaluationOptions options, const std::vector<double>& candidates);

Json score_json(const Score& score, bool with_documents);

}  // namespace cbtm
