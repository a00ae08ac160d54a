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
#include "cbtm/route/mixture.h"
#include "cbtm/route/routing_method.h"
#include "cbtm/route/routing_mode.h"
#include "cbtm/run/evaluation_result.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

/// A document to score: the tokens of its text, then eos. The first token is context only (docs/method.md,
/// 'Evaluation').
struct EvaluationDocument {
  std::string id;
  std::vector<int32_t> ids;
  int64_t cluster = -1;  ///< its shard, or -1 if that is not known
};

/// All documents of a split ("train", "valid", "tune") of a run's shards.
std::vector<EvaluationDocument> run_documents(const RunDirectory& run, const std::string& split);
/// The documents of corpus files, which are read once. `statistics` receives what was read. Memory: 4 bytes per token,
/// and a batch of texts.
std::vector<EvaluationDocument> corpus_documents(const CorpusOptions& corpus, const Tokenizer& tokenizer,
                                                 CorpusStatistics& statistics);

struct DocumentScore {
  std::string id;
  int64_t tokens = 0;                  ///< scored
  double negative_log_likelihood = 0;  ///< sum, nats
  std::vector<double> expert_weights;  ///< mean over its tokens, by cluster
};

struct Score {
  std::string router;  ///< name of its RoutingMethod; "" for one of EvaluationOptions::mixtures
  int64_t top_k = 0;
  double negative_log_likelihood = 0;
  int64_t tokens = 0;
  std::vector<DocumentScore> documents;
  double perplexity() const;
};

/// What one router made of one document. A target is a token that is scored.
struct TokenDetails {
  size_t score = 0;                              ///< which of Evaluation::scores
  std::vector<double> log_probabilities;         ///< [targets]
  std::vector<double> weights;                   ///< [targets, clusters]
  std::vector<double> expert_log_probabilities;  ///< [targets, clusters]; NaN where the expert did not read
  std::vector<double> prior;                     ///< [clusters], as TextRouting::prior
  std::vector<double> prior_after;  ///< what the next document begins with, if the router carries that over
};

struct EvaluationOptions {
  std::vector<Mixture> mixtures;  ///< by the experts' own router
  /// Further routers, whose scores follow those of the mixtures. All are evaluated in one pass over the experts.
  std::vector<std::shared_ptr<const RoutingMethod>> routers;
  RoutingMode routing;       ///< of what looks at distances
  int64_t length_max = 0;    ///< tokens read of a document; 0: as many as the experts were trained on
  bool matrix = false;       ///< run every expert on every document
  int64_t memory_bytes = 0;  ///< for experts' weights; 0: half of what is free (see ExpertPool)
  /// Called for every document, in order, and each score that `detailed` names (its index in Evaluation::scores).
  std::function<void(const EvaluationDocument&, const TokenDetails&)> token_details;
  std::vector<size_t> detailed = {0};
};

struct Evaluation {
  std::vector<Score> scores;                 ///< one per mixture, then one per router
  std::vector<std::vector<double>> carried;  ///< by score: what its router would begin the next document with
  std::vector<std::vector<double>> matrix;  ///< perplexity [expert, cluster of the documents]; NaN where there are none
  int64_t tokens_read = 0;                  ///< by all experts together
  double seconds = 0;
};

/// The perplexity of an ensemble. Distances need only the text, so they come first, and every router says which experts
/// it wants where. Then each expert reads only the documents that need it, up to the last token that needs it, in large
/// batches, once for all routers.
Evaluation evaluate_ensemble(Device& device, const ExpertSet& experts, const std::vector<EvaluationDocument>& documents,
                             const EvaluationOptions& options);

/// The perplexity of one model.
Evaluation evaluate_model(InferenceModel& model, const std::vector<EvaluationDocument>& documents, int64_t length_max);

/// The candidate temperature of the lowest perplexity on these documents. Everything else is as in options.mixtures[0].
double tune_temperature(Device& device, const ExpertSet& experts, const std::vector<EvaluationDocument>& documents,
                        EvaluationOptions options, const std::vector<double>& candidates);

/// An evaluation as files hold it. `settings`: how it was made; `documents`: what was read, which becomes a member of
/// the settings.
EvaluationResult evaluation_result(const Evaluation& evaluation, const Json& settings, const Json& documents);

}  // namespace cbtm
