#include <algorithm>
#include <cmath>
#include <map>

#include "cbtm/base/error.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/token_filter.h"
#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/ensemble/generate.h"
#include "ensemble/routed_text.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "mixture of the experts";

/// One model's caches of the sequences that use it; closed with this object.
class CachedModel {
 public:
  explicit CachedModel(InferenceModel& model) : model_(&model) {}
  CachedModel(CachedModel&& other) noexcept : model_(other.model_), cached_(std::move(other.cached_)) {
    other.cached_.clear();
  }
  CachedModel& operator=(CachedModel&&) = delete;
  ~CachedModel() {
    for (const auto& [sequence, cached] : cached_) model_->close_sequence(cached.handle);
  }

  /// The sequence is needed in this step: its cache must stay.
  void touch(int64_t sequence, int64_t step) {
    auto [place, fresh] = cached_.try_emplace(sequence);
    if (fresh) place->second.handle = model_->open_sequence();
    place->second.step = step;
  }
  /// Logits after each of these sequences, all touched, whose tokens not yet read are read now: [sequences, vocab_size]
  /// on the device, valid until the next call.
  ConstTensorView logits(const std::vector<int64_t>& sequences, const std::vector<std::vector<int32_t>>& tokens) {
    std::vector<int64_t> handles;
    std::vector<int32_t> ids, offsets = {0};
    for (const int64_t sequence : sequences) {
      handles.push_back(cached_.at(sequence).handle);
      const std::vector<int32_t>& all = tokens[static_cast<size_t>(sequence)];
      ids.insert(ids.end(), all.begin() + model_->sequence_length(handles.back()), all.end());
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
    return model_->extend_on_device(handles, {ids, offsets});
  }
  /// The step that the cache longest out of use was needed in; `none` if there is no cache.
  int64_t oldest_step(int64_t none) const {
    for (const auto& [sequence, cached] : cached_) none = std::min(none, cached.step);
    return none;
  }
  /// Closes caches that were last needed in this step.
  void forget(int64_t step) {
    std::erase_if(cached_, [&](const auto& entry) {
      if (entry.second.step != step) return false;
      model_->close_sequence(entry.second.handle);
      return true;
    });
  }

 private:
  struct Cached {
    int64_t handle = 0;
    int64_t step = 0;
  };
  InferenceModel* model_;
  std::map<int64_t, Cached> cached_;  ///< by sequence
};

class ModelScorer : public NextTokenScorer {
 public:
  explicit ModelScorer(std::unique_ptr<InferenceModel> model) : model_(std::move(model)), cached_(*model_) {}
  int64_t vocab_size() const override { return model_->vocab_size(); }
  int64_t max_length() const override { return model_->max_length(); }
  void start(const std::vector<std::vector<int32_t>>& prompts) override { tokens_ = prompts; }
  void score(const std::vector<int64_t>& sequences, std::vector<float>& scores) override {
    for (const int64_t sequence : sequences) cached_.touch(sequence, 0);
    const ConstTensorView logits = cached_.logits(sequences, tokens_);
    scores.resize(static_cast<size_t>(logits.size()));
    model_->device().copy_to_host(scores.data(), logits.data, logits.size() * 4);
  }
  void append(int64_t sequence, int32_t id) override { tokens_[static_cast<size_t>(sequence)].push_back(id); }
  std::vector<double> weights(int64_t) const override { return {}; }

 private:
  std::unique_ptr<InferenceModel> model_;
  CachedModel cached_;
  std::vector<std::vector<int32_t>> tokens_;
};

class EnsembleScorer : public NextTokenScorer {
 public:
  EnsembleScorer(std::shared_ptr<ExpertPool> pool, const Mixture& mixture, const RoutingMode& routing)
      : pool_(std::move(pool)),
        device_(pool_->device()),
        experts_(pool_->experts()),
        mixture_(mixture),
        routing_(routing) {
    if (routing.schedule == RoutingSchedule::fraction)
      fail_usage("--routing fraction:R needs the whole text; to generate, use token, every:N or prompt");
    pool_->set_reclaim([this] { return forget_oldest(); });
  }
  EnsembleScorer(const EnsembleScorer&) = delete;
  EnsembleScorer& operator=(const EnsembleScorer&) = delete;
  ~EnsembleScorer() override { pool_->set_reclaim({}); }
  int64_t vocab_size() const override { return experts_.vocab_size(); }
  int64_t max_length() const override { return experts_.max_length(); }

  void start(const std::vector<std::vector<int32_t>>& prompts) override {
    tokens_ = prompts;
    for (const std::vector<int32_t>& prompt : prompts) {
      Routed routed{.context = experts_.router().context(), .prompt_length = static_cast<int64_t>(prompt.size())};
      routes_.push_back(std::move(routed));
    }
  }

  void score(const std::vector<int64_t>& sequences, std::vector<float>& scores) override {
    const Mixed mixed = run_experts(sequences);
    const DeviceMatrix out(device_, DType::f32, static_cast<int64_t>(sequences.size()), vocab_size(), kPurpose);
    device_.model_operators().mixture_log_probabilities({.logits = mixed.logits,
                                                         .weights = mixed.weights.view(),
                                                         .log_probabilities = out.view(),
                                                         .rows = mixed.rows.view()});
    scores = out.to_host<float>();
  }

  std::vector<int32_t> choose(const std::vector<int64_t>& sequences, const SamplingOptions& sampling,
                              const std::vector<double>& uniforms) override {
    const Mixed mixed = run_experts(sequences);
    const DeviceMatrix drawn = DeviceMatrix::copy_of<double>(device_, uniforms, 1, kPurpose);
    const DeviceMatrix tokens(device_, DType::i32, 1, static_cast<int64_t>(sequences.size()), kPurpose);
    device_.model_operators().sample_mixture({.logits = mixed.logits,
                                              .rows = mixed.rows.view(),
                                              .weights = mixed.weights.view(),
                                              .uniforms = drawn.view(),
                                              .greedy = sampling.greedy,
                                              .filter = {sampling.temperature, sampling.top_k, sampling.top_p},
                                              .tokens = tokens.view()});
    return tokens.to_host<int32_t>();
  }

  void append(int64_t sequence, int32_t id) override { tokens_[static_cast<size_t>(sequence)].push_back(id); }
  std::vector<double> weights(int64_t sequence) const override {
    return routes_[static_cast<size_t>(sequence)].weights;
  }

 private:
  struct Routed {
    std::unique_ptr<RoutingContext> context;
    int64_t prompt_length = 0;
    int64_t tokens_read = -1;  ///< by the router; -1: no weights yet
    std::vector<double> weights;
  };

  /// What the experts in use say, and who uses which of it how much.
  struct Mixed {
    std::vector<ConstTensorView> logits;  ///< of the experts in use, in the order of their clusters
    DeviceMatrix weights, rows;           ///< [sequences, experts in use]
  };
  /// An expert in use.
  struct Used {
    std::vector<int64_t> sequences;
    std::vector<int32_t> row_of;  ///< of each sequence of the step: its row of the expert's logits
    ConstTensorView logits;
  };

  /// Each expert reads all sequences that use it at once, so that its weights are read once a step.
  Mixed run_experts(const std::vector<int64_t>& sequences) {
    ++step_;
    for (const int64_t sequence : sequences) update_weights(sequence);
    std::map<int64_t, Used> used;  // by cluster
    std::vector<int64_t> clusters;
    for (int64_t cluster = 0; cluster < experts_.router().clusters(); ++cluster) {
      Used one;
      for (const int64_t sequence : sequences) {
        one.row_of.push_back(static_cast<int32_t>(one.sequences.size()));
        if (weight_of(sequence, cluster) > 0) one.sequences.push_back(sequence);
      }
      if (one.sequences.empty()) continue;
      CachedModel& cached = cached_.try_emplace(cluster, pool_->model(cluster)).first->second;
      for (const int64_t sequence : one.sequences) cached.touch(sequence, step_);
      clusters.push_back(cluster);
      used.emplace(cluster, std::move(one));
    }
    pool_->for_each(clusters, [&](int64_t cluster, InferenceModel&) {
      Used& one = used.at(cluster);
      one.logits = cached_.at(cluster).logits(one.sequences, tokens_);
    });

    Mixed mixed;
    std::vector<float> weights;
    std::vector<int32_t> rows;
    for (const auto& [cluster, one] : used) mixed.logits.push_back(one.logits);
    for (size_t s = 0; s < sequences.size(); ++s)
      for (const auto& [cluster, one] : used) {
        weights.push_back(static_cast<float>(weight_of(sequences[s], cluster)));
        rows.push_back(one.row_of[s]);
      }
    const auto count = static_cast<int64_t>(sequences.size());
    mixed.weights = DeviceMatrix::copy_of<float>(device_, weights, count, kPurpose);
    mixed.rows = DeviceMatrix::copy_of<int32_t>(device_, rows, count, kPurpose);
    return mixed;
  }

  double weight_of(int64_t sequence, int64_t cluster) const {
    return routes_[static_cast<size_t>(sequence)].weights[static_cast<size_t>(cluster)];
  }

  /// Closes the caches longest out of use, if this step does not need them; says whether there were any.
  bool forget_oldest() {
    int64_t oldest = step_;
    for (const auto& [cluster, cached] : cached_) oldest = cached.oldest_step(oldest);
    if (oldest == step_) return false;
    for (auto& [cluster, cached] : cached_) cached.forget(oldest);
    return true;
  }

  void update_weights(int64_t sequence) {
    Routed& routed = routes_[static_cast<size_t>(sequence)];
    const std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(sequence)];
    const int64_t wanted = routed_tokens(routing_, static_cast<int64_t>(tokens.size()), routed.prompt_length);
    if (routed.tokens_read == wanted) return;
    for (int64_t n = std::max<int64_t>(0, routed.tokens_read); n < wanted; ++n)
      append_token(experts_.tokenizer(), tokens[static_cast<size_t>(n)], *routed.context);
    routed.tokens_read = wanted;
    routed.weights.resize(static_cast<size_t>(experts_.router().clusters()));
    routed.context->weights(mixture_, experts_.present(), routed.weights);
  }

  std::shared_ptr<ExpertPool> pool_;
  Device& device_;
  const ExpertSet& experts_;
  Mixture mixture_;
  RoutingMode routing_;
  int64_t step_ = 0;
  std::map<int64_t, CachedModel> cached_;  ///< by cluster
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<Routed> routes_;
};

}  // namespace

std::vector<int32_t> NextTokenScorer::choose(const std::vector<int64_t>& sequences, const SamplingOptions& sampling,
                                             const std::vector<double>& uniforms) {
  CBTM_ASSERT(sampling.repetition_penalty == 1, "the scorer does not know which tokens were seen");
  std::vector<float> scores;
  score(sequences, scores);
  const auto vocab = static_cast<size_t>(vocab_size());
  std::vector<int32_t> ids;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::span<float> row = std::span(scores).subspan(s * vocab, vocab);
    if (sampling.greedy) {
      ids.push_back(most_likely_token(row));
      continue;
    }
    next_token_distribution(row, {}, sampling);
    ids.push_back(token_at(row, uniforms[s]));
  }
  return ids;
}

std::unique_ptr<NextTokenScorer> model_scorer(std::unique_ptr<InferenceModel> model) {
  return std::make_unique<ModelScorer>(std::move(model));
}

std::unique_ptr<NextTokenScorer> ensemble_scorer(std::shared_ptr<ExpertPool> pool, const Mixture& mixture,
                                                 const RoutingMode& routing) {
  return std::make_unique<EnsembleScorer>(std::move(pool), mixture, routing);
}

std::unique_ptr<NextTokenScorer> ensemble_scorer(Device& device, const ExpertSet& experts, const Mixture& mixture,
                                                 const RoutingMode& routing, int64_t memory_bytes) {
  return ensemble_scorer(generation_pool(device, experts, memory_bytes), mixture, routing);
}

std::shared_ptr<ExpertPool> generation_pool(Device& device, const ExpertSet& experts, int64_t memory_bytes) {
  return std::make_shared<ExpertPool>(device, experts, memory_bytes > 0 ? memory_bytes : device.free_bytes() / 10 * 8);
}

}  // namespace cbtm
