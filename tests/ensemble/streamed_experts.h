#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/ensemble/session.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/ensemble/recording_scorer.h"

namespace cbtm {

/// Log-probabilities of every document's tokens, then the matrix: to compare bit for bit.
inline std::vector<std::vector<double>> evaluate_golden(Device& device, const ExpertSet& experts, int64_t memory) {
  std::vector<std::vector<double>> all;
  EvaluationOptions options{.mixtures = {{2, 0.1, 2}}, .matrix = true, .memory_bytes = memory};
  options.token_details = [&](const EvaluationDocument&, const TokenDetails& details) {
    all.push_back(details.log_probabilities);
  };
  const Evaluation evaluation = evaluate_ensemble(device, experts, golden_documents(), options);
  for (std::vector<double> row : evaluation.matrix) {
    std::erase_if(row, [](double value) { return std::isnan(value); });
    all.push_back(std::move(row));
  }
  return all;
}

/// Generated from prompts of which each goes through several experts.
struct GoldenGeneration {
  std::vector<std::vector<int32_t>> ids;
  ScoresByText scores;
  ModelMemoryStatistics statistics;
};

inline GoldenGeneration generate_golden(Device& device, const ExpertSet& experts, int64_t memory, bool greedy,
                                        int64_t new_tokens = 24) {
  const std::vector<std::vector<int32_t>> prompts = {{896}, {524, 421, 453, 539}, {43, 40, 36}};
  const auto pool = generation_pool(device, experts, memory);
  const auto scorer = ensemble_scorer(pool, {3, 0.3, 2}, {});
  GoldenGeneration result;
  RecordingScorer recording(*scorer, result.scores);
  for (const Generated& one :
       generate(recording, &experts.tokenizer(), prompts,
                {.new_tokens_max = new_tokens,
                .sampling = {.greedy = greedy, .filter = {.temperature = 0.8, .top_k = 20, .top_p = 0.9}},
                .ignore_eos = true,
                .seed = 5})) {
    if (one.finish == "error") throw Error(one.error);
    result.ids.push_back(one.ids);
  }
  result.statistics = pool->statistics();
  return result;
}

}  // namespace cbtm
