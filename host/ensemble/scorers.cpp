#include <algorithm>
#include <cmath>
#include <map>

#include "cbtm/base/error.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/ensemble/generate.h"
#include "ensemble/routed_text.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "mixture of the experts";

/// One model's caches of the sequences that use it.
class CachedModel {
 public:
  explicit CachedModel(std::unique_ptr<InferenceModel> model) : model_(std::move(model)) {}
  const OptConfig& config() const { return model_->config(); }
  int64_t weight_bytes() const { return model_->weight_bytes(); }

  /// Logits after each of these sequences, whose tokens not yet read are read now: [sequences, vocab_size] on the
  /// device, valid until the next call.
  ConstTensorView logits(const std::vector<int64_t>& sequences, const std::vector<std::vector<int32_t>>& tokens) {
    std::vector<int64_t> handles;
    std::vector<int32_t> ids, offsets = {0};
    for (const int64_t sequence : sequences) {
      auto [place, fresh] = handle_of_.try_emplace(sequence, 0);
      if (fresh) place->second = model_->open_sequence();
      const std::vector<int32_t>& all = tokens[static_cast<size_t>(sequence)];
      ids.insert(ids.end(), all.begin() + model_->sequence_length(place->second), all.end());
      offsets.push_back(static_cast<int32_t>(ids.size()));
      handles.push_back(place->second);
    }
    return model_->extend_on_device(handles, {ids, offsets});
  }
  void to_host(ConstTensorView logits, std::vector<float>& out) {
    out.resize(static_cast<size_t>(logits.size()));
    model_->device().copy_to_host(out.data(), logits.data, logits.size() * 4);
  }

 private:
  std::unique_ptr<InferenceModel> model_;
  std::map<int64_t, int64_t> handle_of_;
};

class ModelScorer : public NextTokenScorer {
 public:
  explicit ModelScorer(std::unique_ptr<InferenceModel> model) : model_(std::move(model)) {}
  int64_t vocab_size() const override { return model_.config().vocab_size; }
  int64_t max_length() const override { return model_.config().max_position_embeddings; }
  void start(const std::vector<std::vector<int32_t>>& prompts) override { tokens_ = prompts; }
  void score(const std::vector<int64_t>& sequences, std::vector<float>& scores) override {
    model_.to_host(model_.logits(sequences, tokens_), scores);
  }
  void append(int64_t sequence, int32_t id) override { tokens_[static_cast<size_t>(sequence)].push_back(id); }
  std::vector<double> weights(int64_t) const override { return {}; }

 private:
  CachedModel model_;
  std::vector<std::vector<int32_t>> tokens_;
};

class EnsembleScorer : public NextTokenScorer {
 public:
  EnsembleScorer(Device& device, const ExpertSet& experts, const Mixture& mixture, const RoutingMode& routing,
                 int64_t memory_bytes)
      : device_(device),
        experts_(experts),
        mixture_(mixture),
        routing_(routing),
        memory_(memory_bytes > 0 ? memory_bytes : device.free_bytes() / 10 * 8),
        models_(static_cast<size_t>(experts.router().clusters())),
        last_used_(models_.size(), 0) {
    if (routing.schedule == RoutingSchedule::fraction)
      fail_usage("--routing fraction:R needs the whole text; to generate, use token, every:N or prompt");
  }
  int64_t vocab_size() const override { return experts_.vocab_size(); }
  int64_t max_length() const override { return experts_.max_position_embeddings(); }

  void start(const std::vector<std::vector<int32_t>>& prompts) override {
    tokens_ = prompts;
    for (const std::vector<int32_t>& prompt : prompts) {
      Routed routed{.context = RoutingContext(experts_.router()), .prompt_length = static_cast<int64_t>(prompt.size())};
      routes_.push_back(std::move(routed));
    }
  }

  void score(const std::vector<int64_t>& sequences, std::vector<float>& scores) override {
    const Mixed mixed = run_experts(sequences);
    const DeviceMatrix out(device_, DType::f32, static_cast<int64_t>(sequences.size()), vocab_size(), kPurpose);
    device_.mixture_log_probabilities({.logits = mixed.logits,
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
    device_.sample_mixture({.logits = mixed.logits,
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
    RoutingContext context;
    int64_t prompt_length = 0;
    int64_t tokens_read = -1;  ///< by the router; -1: no weights yet
    std::vector<double> weights;
  };

  static constexpr size_t kCopied = static_cast<size_t>(-1);

  /// What the experts in use say, and who uses which of it how much.
  struct Mixed {
    std::vector<ConstTensorView> logits;  ///< of the experts in use
    std::vector<size_t> owners;           ///< whose memory those lie in, so that it must stay; kCopied: in `copies`
    std::vector<DeviceMatrix> copies;
    DeviceMatrix weights, rows;  ///< [sequences, experts in use]
  };

  /// Loads expert j; those longest out of use give way if the memory does not hold them too, with their caches: should
  /// they be called again they read the context again.
  void load(size_t j, Mixed& mixed) {
    while (loaded_bytes_ > 0 && loaded_bytes_ + weight_bytes_max_ > memory_) {
      size_t oldest = j;
      for (size_t other = 0; other < models_.size(); ++other)
        if (models_[other] != nullptr && last_used_[other] < last_used_[oldest]) oldest = other;
      for (size_t e = 0; e < mixed.owners.size(); ++e) {  // what it said in this step is still needed
        if (mixed.owners[e] != oldest) continue;
        const ConstTensorView said = mixed.logits[e];
        mixed.copies.emplace_back(device_, said.dtype, said.rows, said.columns, kPurpose);
        device_.copy(mixed.copies.back().view(), said);
        mixed.logits[e] = mixed.copies.back().view();
        mixed.owners[e] = kCopied;
      }
      loaded_bytes_ -= models_[oldest]->weight_bytes();
      device_.synchronize();
      models_[oldest].reset();
    }
    models_[j] = std::make_unique<CachedModel>(experts_.load(device_, static_cast<int64_t>(j)));
    loaded_bytes_ += models_[j]->weight_bytes();
    weight_bytes_max_ = std::max(weight_bytes_max_, models_[j]->weight_bytes());
  }

  /// Each expert reads all sequences that use it at once, so that its weights are read once a step.
  Mixed run_experts(const std::vector<int64_t>& sequences) {
    for (const int64_t sequence : sequences) update_weights(sequence);
    Mixed mixed;
    std::vector<size_t> used;
    std::vector<std::vector<int32_t>> row_of;  // by expert in use: of each of `sequences`
    for (size_t j = 0; j < models_.size(); ++j) {
      std::vector<int64_t> users;
      std::vector<int32_t> rows;
      for (const int64_t sequence : sequences) {
        rows.push_back(static_cast<int32_t>(users.size()));
        if (routes_[static_cast<size_t>(sequence)].weights[j] > 0) users.push_back(sequence);
      }
      if (users.empty()) continue;
      last_used_[j] = ++clock_;
      if (models_[j] == nullptr) load(j, mixed);
      mixed.logits.push_back(models_[j]->logits(users, tokens_));
      mixed.owners.push_back(j);
      used.push_back(j);
      row_of.push_back(std::move(rows));
    }
    std::vector<float> weights;
    std::vector<int32_t> rows;
    for (size_t s = 0; s < sequences.size(); ++s)
      for (size_t e = 0; e < used.size(); ++e) {
        weights.push_back(static_cast<float>(routes_[static_cast<size_t>(sequences[s])].weights[used[e]]));
        rows.push_back(row_of[e][s]);
      }
    const auto count = static_cast<int64_t>(sequences.size());
    mixed.weights = DeviceMatrix::copy_of<float>(device_, weights, count, kPurpose);
    mixed.rows = DeviceMatrix::copy_of<int32_t>(device_, rows, count, kPurpose);
    return mixed;
  }

  void update_weights(int64_t sequence) {
    Routed& routed = routes_[static_cast<size_t>(sequence)];
    const std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(sequence)];
    const int64_t wanted = routed_tokens(routing_, static_cast<int64_t>(tokens.size()), routed.prompt_length);
    if (routed.tokens_read == wanted) return;
    for (int64_t n = std::max<int64_t>(0, routed.tokens_read); n < wanted; ++n)
      append_token(experts_.tokenizer(), tokens[static_cast<size_t>(n)], routed.context);
    routed.tokens_read = wanted;
    std::vector<double> distances(static_cast<size_t>(experts_.router().clusters()));
    routed.context.squared_distances(distances);
    routed.weights.resize(distances.size());
    routing_weights(
        distances,
        {.top_k = mixture_.top_k, .temperature = mixture_.temperature, .distance_power = mixture_.distance_power},
        experts_.present(), routed.weights);
  }

  Device& device_;
  const ExpertSet& experts_;
  Mixture mixture_;
  RoutingMode routing_;
  int64_t memory_;            ///< for the experts' weights
  int64_t loaded_bytes_ = 0;  ///< of weights
  int64_t weight_bytes_max_ = 0;
  std::vector<std::unique_ptr<CachedModel>> models_;
  std::vector<int64_t> last_used_;  ///< by cluster, on this clock
  int64_t clock_ = 0;
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
      ids.push_back(static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
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

std::unique_ptr<NextTokenScorer> ensemble_scorer(Device& device, const ExpertSet& experts, const Mixture& mixture,
                                                 const RoutingMode& routing, int64_t memory_bytes) {
  return std::make_unique<EnsembleScorer>(device, experts, mixture, routing, memory_bytes);
}

}  // namespace cbtm
