#include <algorithm>
#include <cmath>
#include <map>

#include "cbtm/base/error.h"
#include "cbtm/ensemble/generate.h"
#include "ensemble/routed_text.h"

namespace cbtm {
namespace {

/// One model's caches of the sequences that use it.
class CachedModel {
 public:
  explicit CachedModel(std::unique_ptr<InferenceModel> model) : model_(std::move(model)) {}
  const OptConfig& config() const { return model_->config(); }

  /// Logits after each of these sequences, whose tokens not yet read are read now: [sequences, vocab_size].
  void logits(const std::vector<int64_t>& sequences, const std::vector<std::vector<int32_t>>& tokens,
              std::vector<float>& out) {
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
    out.resize(sequences.size() * static_cast<size_t>(config().vocab_size));
    model_->extend(handles, {ids, offsets}, out);
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
    model_.logits(sequences, tokens_, scores);
  }
  void append(int64_t sequence, int32_t id) override { tokens_[static_cast<size_t>(sequence)].push_back(id); }
  std::vector<double> weights(int64_t) const override { return {}; }

 private:
  CachedModel model_;
  std::vector<std::vector<int32_t>> tokens_;
};

class EnsembleScorer : public NextTokenScorer {
 public:
  EnsembleScorer(Device& device, const ExpertSet& experts, const Mixture& mixture, const RoutingMode& routing)
      : device_(device),
        experts_(experts),
        mixture_(mixture),
        routing_(routing),
        models_(static_cast<size_t>(experts.router().clusters())) {
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
    const auto clusters = static_cast<size_t>(experts_.router().clusters());
    const auto vocab = static_cast<size_t>(vocab_size());
    for (const int64_t sequence : sequences) update_weights(sequence);
    // Each expert reads all sequences that use it at once; what others need no row of stays empty.
    std::vector<std::vector<float>> logits(clusters);
    std::vector<std::map<int64_t, size_t>> row_of(clusters);
    std::vector<float> one_expert;
    for (size_t j = 0; j < clusters; ++j) {
      std::vector<int64_t> users;
      for (const int64_t sequence : sequences)
        if (routes_[static_cast<size_t>(sequence)].weights[j] > 0) users.push_back(sequence);
      if (users.empty()) continue;
      if (models_[j] == nullptr)
        models_[j] = std::make_unique<CachedModel>(experts_.load(device_, static_cast<int64_t>(j)));
      models_[j]->logits(users, tokens_, logits[j]);
      for (size_t row = 0; row < users.size(); ++row) row_of[j][users[row]] = row;
    }
    scores.resize(sequences.size() * vocab);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const std::vector<double>& weights = routes_[static_cast<size_t>(sequences[s])].weights;
      std::vector<ConstTensorView> rows;
      std::vector<float> row_weights;
      for (size_t j = 0; j < clusters; ++j) {
        if (weights[j] <= 0) continue;
        rows.push_back(view_of(logits[j].data() + row_of[j][sequences[s]] * vocab, 1, static_cast<int64_t>(vocab)));
        row_weights.push_back(static_cast<float>(weights[j]));
      }
      device_.mixture_log_probabilities({rows, view_of(row_weights.data(), 1, static_cast<int64_t>(row_weights.size())),
                                         view_of(scores.data() + s * vocab, 1, static_cast<int64_t>(vocab))});
    }
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
  std::vector<std::unique_ptr<CachedModel>> models_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<Routed> routes_;
};

}  // namespace

std::unique_ptr<NextTokenScorer> model_scorer(std::unique_ptr<InferenceModel> model) {
  return std::make_unique<ModelScorer>(std::move(model));
}

std::unique_ptr<NextTokenScorer> ensemble_scorer(Device& device, const ExpertSet& experts, const Mixture& mixture,
                                                 const RoutingMode& routing) {
  return std::make_unique<EnsembleScorer>(device, experts, mixture, routing);
}

}  // namespace cbtm
