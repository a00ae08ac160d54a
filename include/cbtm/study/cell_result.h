#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/study/grid.h"

namespace cbtm::study {

/// A held-out document as all systems score it.
struct ScoredDocument {
  std::string id;
  int64_t tokens = 0;  ///< scored

  bool operator==(const ScoredDocument&) const = default;
};

/// What one way to use a system made of the documents.
struct SystemScore {
  std::string router;                                             ///< as --router names it; "" for one model
  int64_t top_k = 1;                                              ///< experts mixed
  double temperature = std::numeric_limits<double>::quiet_NaN();  ///< chosen on tune documents; NaN: it has none
  std::vector<double> losses;                                     ///< [documents] negative log-likelihood, nats
};

/// A few-shot task's accuracies by one way to use a system.
struct TaskScore {
  std::string task;
  std::string router;
  int64_t top_k = 1;
  std::vector<double> accuracies;  ///< by seed of the task, by the labels' log-probability
  std::vector<double> right;       ///< [test lines] fraction of the task's seeds with a right answer
};

/// What a cell came to. The same cell always comes to the same: times are kept apart (CellTimes).
struct CellResult {
  Cell cell;
  Json recipe;                  ///< everything that it was made from; an object
  int64_t parameters = 0;       ///< of one model
  int64_t training_tokens = 0;  ///< of all experts together
  int64_t training_steps = 0;   ///< of one model
  int64_t skipped_steps = 0;    ///< of all
  double training_flops = 0;    ///< of all
  double forward_flops = 0;     ///< per token of one model
  double tune_loss = 0;         ///< nats per token on the tune documents, by the system's main way of use
  std::vector<int64_t> shards;  ///< training tokens by cluster; empty for one model
  std::vector<ScoredDocument> documents;
  std::vector<SystemScore> scores;
  std::vector<std::vector<double>> matrix;  ///< perplexity [expert, cluster of the documents]; NaN where there is none
  std::vector<TaskScore> tasks;
};

Json cell_result_json(const CellResult& result);
/// Throws Error that names `file` and the key if a value has the wrong type or cannot be.
CellResult parse_cell_result(const Json& json, const std::string& file);

/// How long a cell took where it was made: no part of the study's results.
struct CellTimes {
  double training_seconds = 0;  ///< of all experts, one after another
  double longest_seconds = 0;   ///< of the longest training among them
  double evaluation_seconds = 0;
  std::string device;
  int64_t threads = 1;
};
Json cell_times_json(const CellTimes& times);
CellTimes parse_cell_times(const Json& json, const std::string& file);

/// The router that stands for a system where only one number is shown, with all experts: tf-idf; the posterior where
/// the clusters are domains, as in Branch-Train-Merge; equal weights where they are random and no text is nearer to one
/// of them. Where `routers` lacks it: tf-idf. "" for one model.
std::string main_router(const System& system, const std::vector<std::string>& routers);

}  // namespace cbtm::study
