#include "cbtm/fewshot/few_shot.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/route/router.h"

namespace cbtm {
namespace {

/// One prompt with all that routing says of it.
struct Prompt {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<double> distances;                                     ///< [clusters]
  std::vector<std::vector<double>> weights;                          ///< [systems][clusters]
  std::vector<std::vector<std::vector<double>>> distances_in_label;  ///< [labels][tokens][clusters], token by token
  std::vector<LabelLogProbabilities> by_expert;                      ///< by cluster
};

/// What runs the models: calls `use` for each cluster that is named, with its model.
using ForEach =
    std::function<void(const std::vector<int64_t>&, const std::function<void(int64_t, InferenceModel&)>& use)>;

class FewShotRun {
 public:
  FewShotRun(const FewShotTask& task, const Tokenizer& tokenizer, const FewShotOptions& options, int64_t positions,
             const ExpertSet* experts, ForEach for_each)
      : task_(task),
        tokenizer_(tokenizer),
        options_(options),
        experts_(experts),
        for_each_(std::move(for_each)),
        clusters_(experts == nullptr ? 1 : static_cast<size_t>(experts->router().clusters())) {
    result_.tokens = label_tokens(task, tokenizer, positions);
    if (experts == nullptr) result_.systems.push_back({.name = "model"});
    for (const Mixture& mixture : options.mixtures)
      result_.systems.push_back({.name = fmt::format("top-{}", mixture.top_k)});
    for (FewShotSystem& system : result_.systems) system.accuracies.resize(kScoreKinds.size());
  }

  FewShotResult run() {
    const auto start = std::chrono::steady_clock::now();
    Progress progress("few-shot scoring");
    score_suffix();
    for (const uint64_t seed : task_.seeds) {
      progress.update(fmt::format("{}, seed {}", task_.name, seed));
      score_seed(seed);
    }
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  std::vector<int64_t> all_clusters() const {
    std::vector<int64_t> clusters;
    if (experts_ == nullptr) return {0};
    for (const Expert& expert : experts_->experts()) clusters.push_back(expert.cluster);
    return clusters;
  }

  void score_suffix() {
    result_.suffix.resize(clusters_);
    for_each_(all_clusters(), [&](int64_t cluster, InferenceModel& model) {
      result_.suffix[static_cast<size_t>(cluster)] =
          score_labels(model, std::span(&result_.tokens.suffix, 1), result_.tokens).front();
    });
  }

  void score_seed(uint64_t seed) {
    const std::vector<int64_t> shown = demonstrations(task_, seed);
    std::vector<Prompt> prompts;
    int64_t truncated = 0;
    for (const FewShotExample& example : task_.test) {
      Prompt prompt{.text = few_shot_prompt(task_, shown, example.input)};
      prompt.ids = tokenizer_.encode(prompt.text);
      size_t longest = 0;
      for (const std::vector<int32_t>& label : result_.tokens.labels) longest = std::max(longest, label.size());
      if (static_cast<int64_t>(prompt.ids.size() + longest) > task_.max_length) ++truncated;
      if (experts_ != nullptr) route(prompt);
      prompt.by_expert.resize(clusters_);
      prompts.push_back(std::move(prompt));
    }
    result_.demonstrations.push_back(shown);
    result_.truncated_prompts.push_back(truncated);
    for_each_(all_clusters(), [&](int64_t cluster, InferenceModel& model) {
      const auto j = static_cast<size_t>(cluster);
      std::vector<std::vector<int32_t>> contexts;
      std::vector<size_t> of;
      for (size_t i = 0; i < prompts.size(); ++i)
        if (needs(prompts[i], j)) {
          contexts.push_back(prompts[i].ids);
          of.push_back(i);
        }
      std::vector<LabelLogProbabilities> scores = score_labels(model, contexts, result_.tokens);
      for (size_t c = 0; c < of.size(); ++c) prompts[of[c]].by_expert[j] = std::move(scores[c]);
    });
    mix(seed, prompts);
  }

  void route(Prompt& prompt) const {
    const std::unique_ptr<RoutingContext> context = experts_->router().context();
    context->append(prompt.text);
    prompt.distances.resize(clusters_);
    context->squared_distances(prompt.distances);
    for (const Mixture& mixture : options_.mixtures) {
      prompt.weights.emplace_back(clusters_);
      routing_weights(prompt.distances, mixture, experts_->present(), prompt.weights.back());
    }
    if (!options_.token_by_token) return;
    for (const std::vector<int32_t>& label : result_.tokens.labels) {
      const std::unique_ptr<RoutingContext> text = experts_->router().context();
      text->append(prompt.text);
      prompt.distances_in_label.emplace_back();
      for (const int32_t id : label) {
        prompt.distances_in_label.back().emplace_back(clusters_);
        text->squared_distances(prompt.distances_in_label.back().back());
        text->append_token(id, tokenizer_.is_special(id) ? std::string_view() : tokenizer_.bytes_of(id));
      }
    }
  }

  /// Whether a prompt's scores of this expert are used. Token by token, the label may change which are the nearest, so
  /// that all are scored.
  bool needs(const Prompt& prompt, size_t cluster) const {
    if (experts_ == nullptr || options_.token_by_token || options_.details) return true;
    return std::any_of(prompt.weights.begin(), prompt.weights.end(),
                       [&](const std::vector<double>& weights) { return weights[cluster] > 0; });
  }

  LabelScores scores_of_system(const Prompt& prompt, size_t system) const {
    if (experts_ == nullptr) return model_scores(prompt.by_expert.front(), result_.suffix.front());
    if (!options_.token_by_token) return mixed_label_scores(prompt.by_expert, result_.suffix, prompt.weights[system]);
    std::vector<std::vector<std::vector<double>>> weights;
    for (const auto& of_label : prompt.distances_in_label) {
      weights.emplace_back();
      for (const std::vector<double>& distances : of_label) {
        weights.back().emplace_back(clusters_);
        routing_weights(distances, options_.mixtures[system], experts_->present(), weights.back().back());
      }
    }
    return mixed_token_scores(prompt.by_expert, result_.suffix, weights);
  }

  void mix(uint64_t seed, const std::vector<Prompt>& prompts) {
    std::vector<std::vector<int64_t>> right(result_.systems.size(), std::vector<int64_t>(kScoreKinds.size()));
    for (FewShotSystem& system : result_.systems) system.scores.emplace_back();
    for (size_t i = 0; i < prompts.size(); ++i) {
      std::vector<const LabelScores*> of_prompt;
      for (size_t s = 0; s < result_.systems.size(); ++s) {
        std::vector<LabelScores>& all = result_.systems[s].scores.back();
        all.reserve(prompts.size());
        all.push_back(scores_of_system(prompts[i], s));
        of_prompt.push_back(&all.back());
        for (size_t kind = 0; kind < kScoreKinds.size(); ++kind)
          right[s][kind] += predicted_label(scores_of(all.back(), kind)) == task_.test[i].label ? 1 : 0;
      }
      if (options_.details)
        options_.details({seed, static_cast<int64_t>(i), prompts[i].text, prompts[i].ids, prompts[i].distances,
                          prompts[i].by_expert, prompts[i].weights, of_prompt});
    }
    for (size_t s = 0; s < right.size(); ++s)
      for (size_t kind = 0; kind < kScoreKinds.size(); ++kind)
        result_.systems[s].accuracies[kind].by_seed.push_back(static_cast<double>(right[s][kind]) /
                                                              static_cast<double>(prompts.size()));
  }

  const FewShotTask& task_;
  const Tokenizer& tokenizer_;
  const FewShotOptions& options_;
  const ExpertSet* experts_;
  ForEach for_each_;
  size_t clusters_;
  FewShotResult result_;
};

}  // namespace

void share_prompts(ModelMemory& memory) {
  constexpr int64_t kOnlyWhileInUse = 1;  // bytes: less than a page, so that nothing is kept for later
  memory.caches.set_prompt_cache(kOnlyWhileInUse);
}

FewShotResult few_shot(InferenceModel& model, const Tokenizer& tokenizer, const FewShotTask& task,
                       const FewShotOptions& options) {
  CBTM_ASSERT(options.mixtures.empty(), "one model mixes nothing");
  return FewShotRun(task, tokenizer, options, model.max_length(), nullptr,
                    [&](const std::vector<int64_t>&, const auto& use) { use(0, model); })
      .run();
}

FewShotResult few_shot(ExpertPool& pool, const FewShotTask& task, const FewShotOptions& options) {
  CBTM_ASSERT(!options.mixtures.empty(), "an ensemble is mixed");
  const ExpertSet& experts = pool.experts();
  return FewShotRun(task, experts.tokenizer(), options, experts.max_length(), &experts,
                    [&](const std::vector<int64_t>& clusters, const auto& use) { pool.for_each(clusters, use); })
      .run();
}

}  // namespace cbtm
