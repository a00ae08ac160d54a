#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

// The results of evaluations, as files hold them (docs/formats.md, 'Evaluation'). Numbers that a file does not hold are
// NaN or -1.

struct DocumentResult {
  std::string id;
  int64_t tokens = 0;                  ///< scored
  double negative_log_likelihood = 0;  ///< sum, nats
  std::vector<double> expert_weights;  ///< mean over its tokens, by cluster; empty for one model
};

/// The score of one number of experts, or of one router.
struct SweepResult {
  std::string router;  ///< as on the command line; "": the experts' own
  int64_t top_k = 0;
  double perplexity = std::numeric_limits<double>::quiet_NaN();
  double negative_log_likelihood = std::numeric_limits<double>::quiet_NaN();
  int64_t tokens = -1;
  std::vector<double> document_losses;  ///< negative log-likelihood of each document, if routers were compared
};

/// How an evaluation was made.
struct EvaluationSettings {
  Json all = Json::object();                                             ///< everything that the file says of it
  std::vector<int64_t> top_k;                                            ///< numbers of experts; the first was scored
  double router_temperature = std::numeric_limits<double>::quiet_NaN();  ///< of an ensemble
  std::string router_hash;                                               ///< of an ensemble
  int64_t experts_present = -1;                                          ///< the number of experts, if it is said
  std::string split;    ///< of the run's documents that were read; "" for documents of other files
  std::string command;  ///< as typed; "" for the evaluation stage of a run
};

/// The result of an evaluation: of one model, or of an ensemble.
struct EvaluationResult {
  double perplexity = std::numeric_limits<double>::quiet_NaN();
  double negative_log_likelihood = std::numeric_limits<double>::quiet_NaN();
  int64_t tokens = -1;  ///< scored
  std::vector<DocumentResult> documents;
  double seconds = std::numeric_limits<double>::quiet_NaN();
  int64_t tokens_read = -1;  ///< by all experts together
  EvaluationSettings settings;
  std::vector<SweepResult> sweep;           ///< empty if one number of experts was scored
  std::vector<std::vector<double>> matrix;  ///< perplexity [expert, cluster of the documents]; NaN where there is none
};
Json evaluation_json(const EvaluationResult& result);
/// Throws Error that names `file` and the key if a value has the wrong type or cannot be.
EvaluationResult parse_evaluation(const Json& json, const std::string& file);
/// The typed part of an evaluation's settings.
EvaluationSettings parse_evaluation_settings(const Json& json, const std::string& file);

/// Perplexities after one step of the branch.
struct GainPoint {
  int64_t step = 0;
  int64_t tokens = 0;  ///< that the dense model, or all experts together, have read
  double dense = std::numeric_limits<double>::quiet_NaN();
  double top_1 = std::numeric_limits<double>::quiet_NaN();
  double top_2 = std::numeric_limits<double>::quiet_NaN();
  double all = std::numeric_limits<double>::quiet_NaN();
};
/// The contents of curve.json.
Json gain_curve_json(const std::vector<GainPoint>& points);
std::vector<GainPoint> parse_gain_curve(const Json& json, const std::string& file);

/// The numbers of a run's evaluation, in run.json and for people.
struct EvaluationSummary {
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t clusters = 0;
  double router_temperature = 0;
  double seed = 0, dense = 0;                                 ///< perplexity of the seed and of the dense baseline
  double mixture = std::numeric_limits<double>::quiet_NaN();  ///< of the mixture of experts; NaN without one
  std::vector<std::pair<int64_t, double>> top_k;              ///< number of experts, perplexity
};
Json evaluation_summary_json(const EvaluationSummary& summary);
EvaluationSummary parse_evaluation_summary(const Json& json, const std::string& file);

}  // namespace cbtm
