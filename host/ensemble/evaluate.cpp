#include "cbtm/ensemble/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/threads.h"
#include "cbtm/ensemble/expert_pool.h"

namespace cbtm {
namespace {

using Clock = std::chrono::steady_clock;

/// Memory that distances and log-probabilities of a group of documents may take.
constexpr int64_t kGroupBytes = int64_t{512} << 20;
constexpr int64_t kTokensAtOnce = 16'384;
constexpr const char* kStage = "evaluation";

/// A document on its way: what the router says, and what the experts have said so far.
struct Work {
  const EvaluationDocument* document;
  int64_t length = 0;  ///< tokens that are read or scored
  /// By router (EnsembleEvaluation::distances_of_): [length, clusters], row n from the first n tokens.
  std::vector<std::vector<float>> distances;
  std::vector<int64_t> needed;  ///< by cluster: targets 1 .. needed are wanted from its expert
  std::vector<std::vector<float>> expert_log_probabilities;  ///< by cluster: of targets 1 .. needed

  int64_t targets() const { return length - 1; }
};

void check_scored(const Score& score) {
  if (score.tokens == 0)
    fail(
        "none of the {} documents to evaluate on has two tokens or more, so that there is nothing to score; give "
        "others",
        score.documents.size());
}

/// The distances that the target at place n is weighed by.
std::vector<double> distances_for(const std::vector<float>& distances, const RoutingMode& routing, int64_t n,
                                  int64_t length, size_t clusters) {
  const auto row = distances.begin() + routed_tokens(routing, n, length) * static_cast<int64_t>(clusters);
  return {row, row + static_cast<int64_t>(clusters)};
}

class EnsembleEvaluation {
 public:
  EnsembleEvaluation(Device& device, const ExpertSet& experts, const EvaluationOptions& options)
      : device_(device),
        experts_(experts),
        options_(options),
        clusters_(experts.router().clusters()),
        pool_(device, experts,
              options.memory_bytes > 0 ? options.memory_bytes : std::max<int64_t>(1, device.free_bytes() / 2)) {
    if (options.routing.schedule == RoutingSchedule::prompt)
      fail_usage("--routing prompt is for generation; to evaluate, use token, every:N or fraction:R");
    for (const Mixture& mixture : options.mixtures) {
      routers_.push_back(distance_routing(mixture, experts.present()));
      result_.scores.push_back({.top_k = mixture.top_k});
    }
    for (const auto& router : options.routers) {
      routers_.push_back(router);
      result_.scores.push_back({.router = router->name(), .top_k = router->top_k()});
    }
    CBTM_ASSERT(!routers_.empty(), "there is something to mix");
    result_.carried.resize(routers_.size());
    if (options.matrix) measured_by(experts.router());  // says which cluster a document is of
    for (const auto& router : routers_)
      measured_.push_back(router->uses_distances()
                              ? measured_by(router->router() != nullptr ? *router->router() : experts.router())
                              : kNotMeasured);
    matrix_loss_.assign(static_cast<size_t>(clusters_ * clusters_), 0.0);
    matrix_tokens_.assign(matrix_loss_.size(), 0);
  }

  Evaluation run(const std::vector<EvaluationDocument>& documents) {
    const auto start = Clock::now();
    const int64_t limit =
        options_.length_max > 0 ? std::min(options_.length_max, experts_.max_length()) : experts_.trained_length();
    Progress progress("evaluating");
    std::vector<Work> group;
    int64_t group_bytes = 0;
    size_t done = 0;
    for (const EvaluationDocument& document : documents) {
      Work work{.document = &document};
      work.length = std::min<int64_t>(static_cast<int64_t>(document.ids.size()), limit + 1);
      group_bytes += work.length * clusters_ * (4 + 4 * std::max<int64_t>(1, std::ssize(distances_of_)));
      group.push_back(std::move(work));
      if (group_bytes < kGroupBytes && group.size() < documents.size() - done) continue;
      score_group(group, progress, done, documents.size());
      done += group.size();
      group.clear();
      group_bytes = 0;
    }
    check_scored(result_.scores.front());
    finish_matrix();
    result_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return std::move(result_);
  }

 private:
  static constexpr size_t kNotMeasured = SIZE_MAX;

  /// The place of a router in distances_of_.
  size_t measured_by(const Router& router) {
    const auto found = std::find(distances_of_.begin(), distances_of_.end(), &router);
    if (found != distances_of_.end()) return static_cast<size_t>(found - distances_of_.begin());
    distances_of_.push_back(&router);
    return distances_of_.size() - 1;
  }

  /// One router's distances along the documents of the group.
  void measure(size_t d, std::vector<Work>& group) const {
    std::vector<KnownText> texts;
    for (Work& work : group) {
      work.distances.resize(distances_of_.size());
      const auto read = static_cast<size_t>(std::max<int64_t>(0, work.length - 1));
      work.distances[d].resize((read + 1) * static_cast<size_t>(clusters_));
      texts.push_back({std::span(work.document->ids).first(read), work.distances[d]});
    }
    const Tokenizer& tokenizer = experts_.tokenizer();
    distances_of_[d]->distances_along(
        texts, [&](int32_t id) { return tokenizer.is_special(id) ? std::string_view() : tokenizer.bytes_of(id); },
        [] { stop_if_requested(kStage); });
  }

  /// The distances that routers_[r] weighs the target at place n by; empty if it does not look at any.
  std::vector<double> distances_at(size_t r, const Work& work, int64_t n) const {
    if (measured_[r] == kNotMeasured) return {};
    return distances_for(work.distances[measured_[r]], options_.routing, n, work.length,
                         static_cast<size_t>(clusters_));
  }

  void score_group(std::vector<Work>& group, Progress& progress, size_t done, size_t total) {
    for (size_t d = 0; d < distances_of_.size(); ++d) measure(d, group);
    parallel_ranges(static_cast<int64_t>(group.size()), 1e6, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        stop_if_requested(kStage);  // rethrown on the calling thread
        find_needed(group[static_cast<size_t>(i)]);
      }
    });
    std::vector<int64_t> clusters;  // whose experts have work
    for (const Expert& expert : experts_.experts())
      if (std::any_of(group.begin(), group.end(),
                      [&](const Work& work) { return work.needed[static_cast<size_t>(expert.cluster)] > 0; }))
        clusters.push_back(expert.cluster);
    pool_.for_each(clusters, [&](int64_t cluster, InferenceModel& model) {
      progress.update(fmt::format("documents {} to {} of {}, expert {}", done + 1, done + group.size(), total,
                                  RunDirectory::cluster_name(cluster)));
      run_expert(cluster, model, group);
    });
    for (size_t r = 0; r < routers_.size(); ++r) mix_group(r, group);
    if (options_.matrix)
      for (const Work& work : group) add_to_matrix(work);
  }

  /// One router's scores of the group.
  void mix_group(size_t r, const std::vector<Work>& group) {
    const auto detailed = std::find(options_.detailed.begin(), options_.detailed.end(), r);
    const bool wanted = options_.token_details != nullptr && detailed != options_.detailed.end();
    std::vector<DocumentScore> scores(group.size());
    std::vector<TokenDetails> details(wanted ? group.size() : 0);
    const auto mix_range = [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        stop_if_requested(kStage);
        scores[i] = mix(r, group[i], wanted ? &details[i] : nullptr);
      }
    };
    const auto documents = static_cast<int64_t>(group.size());
    if (routers_[r]->carries_over())
      mix_range(0, documents);
    else
      parallel_ranges(documents, 1e6, mix_range);
    Score& score = result_.scores[r];
    for (size_t i = 0; i < group.size(); ++i) {
      if (wanted) {
        details[i].score = r;
        options_.token_details(*group[i].document, details[i]);
      }
      score.negative_log_likelihood += scores[i].negative_log_likelihood;
      score.tokens += scores[i].tokens;
      score.documents.push_back(std::move(scores[i]));
    }
  }

  void find_needed(Work& work) const {
    work.needed.assign(static_cast<size_t>(clusters_), 0);
    work.expert_log_probabilities.resize(static_cast<size_t>(clusters_));
    std::vector<uint8_t> wanted(work.needed.size());
    for (int64_t n = 1; n < work.length; ++n)
      for (size_t r = 0; r < routers_.size(); ++r) {
        routers_[r]->wanted(n, distances_at(r, work, n), wanted);
        for (size_t j = 0; j < wanted.size(); ++j)
          if (wanted[j] != 0) work.needed[j] = n;
      }
    if (options_.matrix && work.length > 1)
      for (size_t j = 0; j < work.needed.size(); ++j)
        if (experts_.present()[j] != 0) work.needed[j] = work.targets();
  }

  void run_expert(int64_t cluster, InferenceModel& model, std::vector<Work>& group) {
    const auto j = static_cast<size_t>(cluster);
    std::vector<int32_t> ids, targets, offsets = {0};
    std::vector<Work*> batch;
    const auto flush = [&] {
      if (batch.empty()) return;
      stop_if_requested(kStage);
      std::vector<float> out(ids.size());
      model.target_log_probabilities({ids, offsets}, targets, out);
      for (size_t b = 0; b < batch.size(); ++b)
        batch[b]->expert_log_probabilities[j].assign(out.begin() + offsets[b], out.begin() + offsets[b + 1]);
      result_.tokens_read += static_cast<int64_t>(ids.size());
      ids.clear();
      targets.clear();
      offsets = {0};
      batch.clear();
    };
    for (Work& work : group) {
      const int64_t count = work.needed[j];
      if (count == 0) continue;
      const std::vector<int32_t>& all = work.document->ids;
      ids.insert(ids.end(), all.begin(), all.begin() + count);
      targets.insert(targets.end(), all.begin() + 1, all.begin() + count + 1);
      offsets.push_back(static_cast<int32_t>(ids.size()));
      batch.push_back(&work);
      if (static_cast<int64_t>(ids.size()) >= kTokensAtOnce) flush();
    }
    flush();
  }

  /// What the experts gave to the target at place n; NaN where one did not read so far.
  void expert_values(const Work& work, int64_t n, std::vector<double>& out) const {
    out.assign(static_cast<size_t>(clusters_), NAN);
    for (size_t j = 0; j < out.size(); ++j) {
      const std::vector<float>& all = work.expert_log_probabilities[j];
      if (n <= static_cast<int64_t>(all.size())) out[j] = static_cast<double>(all[static_cast<size_t>(n - 1)]);
    }
  }

  DocumentScore mix(size_t r, const Work& work, TokenDetails* details) {
    const RoutingMethod& router = *routers_[r];
    const std::unique_ptr<TextRouting> text = router.begin(result_.carried[r]);
    const auto clusters = static_cast<size_t>(clusters_);
    DocumentScore score{.id = work.document->id, .tokens = std::max<int64_t>(0, work.targets())};
    score.expert_weights.assign(clusters, 0.0);
    std::vector<double> weights(clusters), values;
    for (int64_t n = 1; n < work.length; ++n) {
      text->weights(distances_at(r, work, n), weights);
      expert_values(work, n, values);
      const double log_probability = mixed(weights, values);
      score.negative_log_likelihood -= log_probability;
      for (size_t j = 0; j < clusters; ++j) score.expert_weights[j] += weights[j] / static_cast<double>(score.tokens);
      if (details != nullptr) {
        details->log_probabilities.push_back(log_probability);
        details->weights.insert(details->weights.end(), weights.begin(), weights.end());
        details->expert_log_probabilities.insert(details->expert_log_probabilities.end(), values.begin(), values.end());
      }
      if (router.uses_probabilities()) text->observe(values);
    }
    if (router.carries_over()) result_.carried[r] = router.carry(*text, std::move(result_.carried[r]));
    if (details != nullptr) {
      details->prior = text->prior();
      details->prior_after = result_.carried[r];
    }
    return score;
  }

  /// ln Σ weight exp(value), over the experts that have a weight.
  static double mixed(const std::vector<double>& weights, const std::vector<double>& values) {
    double highest = -INFINITY;
    for (size_t j = 0; j < weights.size(); ++j)
      if (weights[j] > 0) highest = std::max(highest, std::log(weights[j]) + values[j]);
    double sum = 0;
    for (size_t j = 0; j < weights.size(); ++j)
      if (weights[j] > 0) sum += std::exp(std::log(weights[j]) + values[j] - highest);
    return highest + std::log(sum);
  }

  void add_to_matrix(const Work& work) {
    if (work.length < 2) return;
    int64_t cluster = work.document->cluster;
    if (cluster < 0) {  // nearest to the whole text
      const std::vector<float>& own = work.distances.front();
      const auto last = own.end() - clusters_;
      cluster = std::min_element(last, own.end()) - last;
    }
    for (int64_t expert = 0; expert < clusters_; ++expert) {
      const auto at = static_cast<size_t>(expert * clusters_ + cluster);
      for (const float value : work.expert_log_probabilities[static_cast<size_t>(expert)])
        matrix_loss_[at] -= static_cast<double>(value);
      matrix_tokens_[at] += static_cast<int64_t>(work.expert_log_probabilities[static_cast<size_t>(expert)].size());
    }
  }

  void finish_matrix() {
    if (!options_.matrix) return;
    for (int64_t expert = 0; expert < clusters_; ++expert) {
      result_.matrix.emplace_back();
      for (int64_t cluster = 0; cluster < clusters_; ++cluster) {
        const auto at = static_cast<size_t>(expert * clusters_ + cluster);
        result_.matrix.back().push_back(
            matrix_tokens_[at] > 0 ? std::exp(matrix_loss_[at] / static_cast<double>(matrix_tokens_[at])) : NAN);
      }
    }
  }

  Device& device_;
  const ExpertSet& experts_;
  const EvaluationOptions& options_;
  int64_t clusters_;
  ExpertPool pool_;
  std::vector<std::shared_ptr<const RoutingMethod>> routers_;  ///< by score
  std::vector<const Router*> distances_of_;  ///< whose distances are measured; with a matrix the experts' own is first
  std::vector<size_t> measured_;             ///< by score: which of these it looks at
  std::vector<double> matrix_loss_;
  std::vector<int64_t> matrix_tokens_;
  Evaluation result_;
};

}  // namespace

double Score::perplexity() const {
  return std::exp(negative_log_likelihood / static_cast<double>(std::max<int64_t>(1, tokens)));
}

Evaluation evaluate_ensemble(Device& device, const ExpertSet& experts, const std::vector<EvaluationDocument>& documents,
                             const EvaluationOptions& options) {
  return EnsembleEvaluation(device, experts, options).run(documents);
}

Evaluation evaluate_model(InferenceModel& model, const std::vector<EvaluationDocument>& documents, int64_t length_max) {
  const auto start = Clock::now();
  const int64_t limit = length_max > 0 ? std::min(length_max, model.max_length()) : model.max_length();
  Evaluation result;
  result.scores.emplace_back();
  Score& score = result.scores.front();
  std::vector<int32_t> ids, targets, offsets = {0};
  const auto flush = [&] {
    if (ids.empty()) return;
    stop_if_requested(kStage);
    std::vector<float> out(ids.size());
    model.target_log_probabilities({ids, offsets}, targets, out);
    const size_t first = score.documents.size() - (offsets.size() - 1);
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      DocumentScore& document = score.documents[first + b];
      for (int32_t row = offsets[b]; row < offsets[b + 1]; ++row)
        document.negative_log_likelihood -= static_cast<double>(out[static_cast<size_t>(row)]);
      score.negative_log_likelihood += document.negative_log_likelihood;
      score.tokens += document.tokens;
    }
    result.tokens_read += static_cast<int64_t>(ids.size());
    ids.clear();
    targets.clear();
    offsets = {0};
  };
  for (const EvaluationDocument& document : documents) {
    const int64_t count =
        std::max<int64_t>(0, std::min<int64_t>(static_cast<int64_t>(document.ids.size()), limit + 1) - 1);
    score.documents.push_back({.id = document.id, .tokens = count});
    ids.insert(ids.end(), document.ids.begin(), document.ids.begin() + count);
    targets.insert(targets.end(), document.ids.begin() + 1, document.ids.begin() + 1 + count);
    offsets.push_back(static_cast<int32_t>(ids.size()));
    if (static_cast<int64_t>(ids.size()) >= kTokensAtOnce) flush();
  }
  flush();
  check_scored(score);
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

double tune_temperature(Device& device, const ExpertSet& experts, const std::vector<EvaluationDocument>& documents,
                        EvaluationOptions options, const std::vector<double>& candidates) {
  const Mixture wanted = options.mixtures.front();
  options.mixtures.clear();
  options.routers.clear();
  options.matrix = false;
  options.token_details = nullptr;
  for (const double temperature : candidates)
    options.mixtures.push_back({wanted.top_k, temperature, wanted.distance_power});
  const Evaluation evaluation = evaluate_ensemble(device, experts, documents, options);
  const auto best = std::min_element(
      evaluation.scores.begin(), evaluation.scores.end(),
      [](const Score& a, const Score& b) { return a.negative_log_likelihood < b.negative_log_likelihood; });
  return candidates[static_cast<size_t>(best - evaluation.scores.begin())];
}

}  // namespace cbtm
