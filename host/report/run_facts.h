#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/spec.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/evaluation_result.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/run/stage_summary.h"
#include "cbtm/run/training_summary.h"
#include "report/routing_facts.h"

namespace cbtm::report {

/// A line of metrics.jsonl; what a line does not hold is NaN.
struct MetricPoint {
  double tokens = 0;
  double loss = 0;
  double validation_loss = 0;
};

/// A trained model: its card and its curve.
struct ModelFacts {
  std::string name;      ///< "seed", "dense baseline", "expert 003"
  int64_t cluster = -1;  ///< of an expert
  std::optional<ExpertCard> card;
  TrainingSummary training;  ///< what the card says of it
  std::vector<MetricPoint> metrics;
  std::vector<RoutingPoint> routing;  ///< of a mixture of experts

  bool present() const { return card || !metrics.empty(); }
};

/// An entry of the top-k sweep.
struct SweepEntry {
  int64_t top_k = 0;
  double perplexity = 0;
};

/// A count of a file as a number; NaN for one that the file does not hold.
double known(int64_t count);

/// All that the report is made from. What is missing, or cannot be read, is not there.
struct RunFacts {
  std::string name;  ///< of the run directory
  std::optional<RunSummary> run;
  std::optional<ClusterManifest> clusters;
  std::optional<ModelSpec> model;  ///< of the seed
  std::optional<EvaluationResult> seed_evaluation, baseline_evaluation, ensemble_evaluation;
  std::vector<GainPoint> curve;
  double parameters = 0;  ///< of each model; NaN if that is not known
  int64_t k = 0;          ///< 0 if nothing says it
  ModelFacts seed, baseline;
  ModelFacts mixture;                      ///< the mixture of experts, if the run has one
  std::optional<ModelSpec> mixture_model;  ///< its shape
  std::optional<EvaluationResult> mixture_evaluation;
  std::vector<ModelFacts> experts;          ///< those that are there, by cluster
  std::vector<SweepEntry> sweep;            ///< by rising top_k, each once
  int64_t scored_top_k = 0;                 ///< that the ensemble's results a document are of; 0 if not known
  std::vector<int64_t> evaluated_clusters;  ///< of each document in the evaluations, in order; empty if not known
  std::vector<std::string> missing;         ///< sentences: what is not there, or cannot be read and why

  double seed_perplexity() const;
  double dense_perplexity() const;
  double mixture_perplexity() const;
  /// The settings of the ensemble's evaluation; empty if there is none.
  const EvaluationSettings& ensemble_settings() const;
};

/// Reads a run directory. Never throws for what it holds; see `missing`.
RunFacts read_run_facts(const RunDirectory& run);

/// "top-2", or "all 8".
std::string top_k_name(int64_t top_k, int64_t k);

}  // namespace cbtm::report
