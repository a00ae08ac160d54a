#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/fewshot/results.h"
#include "cbtm/fewshot/task.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/model_memory.h"
#include "cbtm/route/mixture.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// One way to score a task: a model, or an ensemble with a number of experts.
struct FewShotSystem {
  std::string name;                              ///< "model", or "top-2"
  std::vector<std::vector<LabelScores>> scores;  ///< [seeds][test lines]
  std::vector<Accuracy> accuracies;              ///< by kind of score (kScoreKinds)
};

/// What is known of one prompt, for people who want all of it.
struct FewShotDetails {
  uint64_t seed = 0;
  int64_t line = 0;  ///< of test, from 0
  const std::string& prompt;
  const std::vector<int32_t>& ids;                      ///< before truncation
  const std::vector<double>& squared_distances;         ///< [clusters]; empty for one model
  const std::vector<LabelLogProbabilities>& by_expert;  ///< by cluster; of one model one
  const std::vector<std::vector<double>>& weights;      ///< by system, [clusters]; empty for one model
  const std::vector<const LabelScores*>& scores;        ///< by system
};

struct FewShotResult {
  std::vector<std::vector<int64_t>> demonstrations;  ///< [seeds]: lines of train
  std::vector<int64_t> truncated_prompts;            ///< [seeds]
  LabelTokens tokens;
  std::vector<LabelLogProbabilities> suffix;  ///< ln p(label | suffix), by cluster; of one model one
  std::vector<FewShotSystem> systems;
  double seconds = 0;
};

struct FewShotOptions {
  std::vector<Mixture> mixtures;  ///< of an ensemble: one system each
  bool token_by_token = false;    ///< weights for each token of a label, instead of one for the prompt
  std::function<void(const FewShotDetails&)> details;
};

/// Lets the models in this memory share the caches of prompts that begin alike, while some are read: the demonstrations
/// of a seed are then read once, and so is a prompt that several labels follow. To be called before anything is read.
/// On a processor no bit of a score changes, on a GPU the rounding of sums.
void share_prompts(ModelMemory& memory);

/// Scores a task with one model. Throws Error if the task does not fit it.
FewShotResult few_shot(InferenceModel& model, const Tokenizer& tokenizer, const FewShotTask& task,
                       const FewShotOptions& options);
/// The same with an ensemble. Every prompt is routed once, by its whole text, also if it is truncated for the experts,
/// and each expert reads the prompts that need it.
FewShotResult few_shot(ExpertPool& pool, const FewShotTask& task, const FewShotOptions& options);

}  // namespace cbtm
