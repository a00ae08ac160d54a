#include "study/task_evaluation.h"

#include <algorithm>

#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/fewshot/few_shot.h"

namespace cbtm::study {
namespace {

constexpr size_t kLmScore = 0;  ///< of kScoreKinds: the one that the paper reports

TaskScore task_score(const FewShotTask& task, const FewShotSystem& system) {
  TaskScore result{.task = task.name, .accuracies = system.accuracies[kLmScore].by_seed};
  result.right.assign(task.test.size(), 0.0);
  for (const std::vector<LabelScores>& of_seed : system.scores)
    for (size_t line = 0; line < of_seed.size(); ++line)
      if (predicted_label(scores_of(of_seed[line], kLmScore)) == task.test[line].label)
        result.right[line] += 1 / static_cast<double>(system.scores.size());
  return result;
}

/// The task, with prompts no longer than the models can read.
FewShotTask read_task(const std::filesystem::path& file, const Config& config, int64_t positions) {
  FewShotTask task = read_few_shot_task(file, config.tasks.test_lines);
  task.max_length = std::min(task.max_length, positions);
  return task;
}

}  // namespace

void score_tasks(InferenceModel& model, const Config& config, const RunDirectory& run, CellResult& result) {
  const Tokenizer tokenizer = Tokenizer::load(run.tokenizer());
  for (const std::filesystem::path& file : config.tasks.files) {
    const FewShotTask task = read_task(file, config, model.max_length());
    const FewShotResult scored = few_shot(model, tokenizer, task, {});
    result.tasks.push_back(task_score(task, scored.systems.front()));
  }
}

void score_tasks(Device& device, const ExpertSet& experts, const std::vector<Mixture>& mixtures, const Config& config,
                 int64_t memory_bytes, CellResult& result) {
  ExpertPool pool(device, experts, memory_bytes > 0 ? memory_bytes : std::max<int64_t>(1, device.free_bytes() / 2));
  for (const std::filesystem::path& file : config.tasks.files) {
    const FewShotTask task = read_task(file, config, experts.max_length());
    const FewShotResult scored = few_shot(pool, task, {.mixtures = mixtures});
    for (size_t i = 0; i < mixtures.size(); ++i) {
      result.tasks.push_back(task_score(task, scored.systems[i]));
      result.tasks.back().router = "tfidf";
      result.tasks.back().top_k = mixtures[i].top_k;
    }
  }
}

}  // namespace cbtm::study
