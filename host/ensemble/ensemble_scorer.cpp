#include <algorithm>
#include <cmath>
#include <cstring>

#include "cbtm/base/error.h"
#include "cbtm/device/device_buffer.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "ensemble/read_plan.h"
#include "ensemble/routed_text.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "mixture of the experts";

void check_generates(const SequenceMixing& mixing) {
  if (mixing.routing.schedule == RoutingSchedule::fraction)
    fail_usage("--routing fraction:R needs the whole text; to generate, use token, every:N or prompt");
  if (mixing.router != nullptr && mixing.router->carries_over())
    fail_usage(
        "--router {}: its prior moves from document to document, and texts that are generated have no order; fit one "
        "with 'cbtm ensemble prior' and give prior=FILE",
        mixing.router->name());
}

class EnsembleScorer : public NextTokenScorer {
 public:
  /// `mixing.present` is all experts that are there.
  EnsembleScorer(std::shared_ptr<ExpertPool> pool, SequenceMixing mixing)
      : pool_(std::move(pool)), device_(pool_->device()), experts_(pool_->experts()), mixing_(std::move(mixing)) {
    mixing_.present = experts_.present();
    check_generates(mixing_);
    pool_->set_reclaim(this, [this] { return drop_oldest(); });
  }
  EnsembleScorer(const EnsembleScorer&) = delete;
  EnsembleScorer& operator=(const EnsembleScorer&) = delete;
  ~EnsembleScorer() override { pool_->end_reclaim(this); }
  int64_t vocab_size() const override { return experts_.vocab_size(); }
  int64_t max_length() const override { return experts_.max_length(); }

  using NextTokenScorer::open;
  int64_t open(std::vector<int32_t> prompt, const std::optional<SequenceMixing>& mixing) override {
    const auto length = static_cast<int64_t>(prompt.size());
    sequences_.emplace(next_, GrowingSequence{std::move(prompt), length});
    Routed& routed = routes_[next_];
    routed.mixing = mixing ? *mixing : mixing_;
    check_generates(routed.mixing);
    if (routed.mixing.router == nullptr)
      routed.mixing.router = distance_routing(routed.mixing.mixture, routed.mixing.present);
    const Router* const other = routed.mixing.router->router();
    if (routed.mixing.router->uses_distances())
      routed.context = (other != nullptr ? *other : experts_.router()).context();
    routed.text = routed.mixing.router->begin();
    return next_++;
  }
  void append(int64_t sequence, int32_t id) override {
    Routed& routed = routes_.at(sequence);
    GrowingSequence& text = sequences_.at(sequence);
    if (routed.mixing.router->uses_probabilities() && routed.observed == text.length()) observe_next(sequence, id);
    text.ids.push_back(id);
  }
  void close(int64_t sequence) override {
    drop_caches(sequence);
    sequences_.erase(sequence);
    routes_.erase(sequence);
  }
  void drop_caches(int64_t sequence) override {
    for (auto& [cluster, caches] : caches_) caches.drop(sequence);
  }

  void set_reclaim(std::function<bool()> reclaim) override { reclaim_ = std::move(reclaim); }

  /// Each expert reads all sequences that use it at once, so that its weights are read once a step.
  std::vector<int64_t> read(std::span<const int64_t> sequences, int64_t prompt_rows) override {
    ++step_;
    used_.clear();
    for (const int64_t sequence : sequences) {
      update_weights(sequence);
      for (const int64_t cluster : clusters_of(sequence))
        caches_.try_emplace(cluster, pool_->model(cluster))
            .first->second.touch(sequence, sequences_.at(sequence), step_);
    }
    const ReadPlan plan = plan_reads(
        sequences, sequences_,
        {.models_of = [this](int64_t sequence) { return clusters_of(sequence); },
         .length = [this](int64_t cluster, int64_t sequence) { return caches_.at(cluster).length(sequence); },
         .shared_unit = [this](int64_t cluster) { return caches_.at(cluster).shared_unit(); }},
        prompt_rows);
    std::vector<int64_t> clusters;
    for (const auto& [cluster, reads] : plan.reads) {
      caches_.at(cluster).reserve(reads);
      clusters.push_back(cluster);
    }
    note_known(plan);
    pool_->for_each(clusters, [&](int64_t cluster, InferenceModel&) {
      Used used;
      used.logits = caches_.at(cluster).read(plan.reads.at(cluster), sequences_, used.rows);
      if (!used.rows.empty()) used_.emplace(cluster, std::move(used));
    });
    return plan.complete;
  }

  void score(std::span<const int64_t> sequences, std::vector<float>& scores) override {
    const Mixed mixed = mix(sequences, {});
    const auto count = static_cast<int64_t>(sequences.size());
    const TensorView out = scores_.view(device_, DType::f32, count, vocab_size());
    for (size_t first = 0, last; first < sequences.size(); first = last) {  // a call for neighbours of one kind
      const MixtureKind kind = kind_of(sequences[first]);
      for (last = first + 1; last < sequences.size() && kind_of(sequences[last]) == kind;) ++last;
      const auto begin = static_cast<int64_t>(first), rows = static_cast<int64_t>(last - first);
      device_.model_operators().mixture_log_probabilities({.logits = mixed.logits,
                                                           .weights = mixed.weights.row_range(begin, rows),
                                                           .log_probabilities = out.row_range(begin, rows),
                                                           .rows = mixed.rows.row_range(begin, rows),
                                                           .kind = kind});
    }
    scores.resize(static_cast<size_t>(out.size()));
    device_.copy_to_host(scores.data(), out.data, out.size() * 4);
  }

  /// One call of the operator for all that are chosen alike.
  std::vector<int32_t> choose(std::span<const TokenChoice> choices) override {
    std::vector<int32_t> ids(choices.size());
    std::vector<uint8_t> done(choices.size(), 0);
    for (size_t first = 0; first < choices.size(); ++first) {
      if (done[first] != 0) continue;
      std::vector<size_t> places;
      std::vector<int64_t> sequences;
      std::vector<double> uniforms;
      for (size_t i = first; i < choices.size(); ++i) {
        if (done[i] != 0 || choices[i].greedy != choices[first].greedy || choices[i].filter != choices[first].filter ||
            kind_of(choices[i].sequence) != kind_of(choices[first].sequence))
          continue;
        done[i] = 1;
        places.push_back(i);
        sequences.push_back(choices[i].sequence);
        uniforms.push_back(choices[i].uniform);
      }
      const Mixed mixed = mix(sequences, uniforms);
      const TensorView tokens = tokens_.view(device_, DType::i32, 1, static_cast<int64_t>(sequences.size()));
      device_.model_operators().sample_mixture({.logits = mixed.logits,
                                                .rows = mixed.rows,
                                                .weights = mixed.weights,
                                                .uniforms = mixed.uniforms,
                                                .greedy = choices[first].greedy,
                                                .filter = choices[first].filter,
                                                .tokens = tokens,
                                                .kind = kind_of(choices[first].sequence)});
      std::vector<int32_t> chosen(places.size());
      device_.copy_to_host(chosen.data(), tokens.data, tokens.size() * 4);
      for (size_t i = 0; i < places.size(); ++i) {
        if (chosen[i] < 0) fail_scores_not_finite();
        ids[places[i]] = chosen[i];
      }
    }
    return ids;
  }

  std::vector<double> weights(int64_t sequence) const override { return routes_.at(sequence).weights; }
  int64_t known_tokens(int64_t sequence) const override {
    const Routed& routed = routes_.at(sequence);
    return routed.first_read < 0 ? 0 : routed.known_tokens;
  }

 private:
  struct Routed {
    std::unique_ptr<RoutingContext> context;
    SequenceMixing mixing;
    std::unique_ptr<TextRouting> text;
    int64_t tokens_read = -1;          ///< by the router; -1: no weights yet
    int64_t observed = 1;              ///< tokens whose probabilities the router knows; nothing predicts the first
    int64_t first_read = -1;           ///< the step; -1: nothing has been read
    int64_t known_tokens = INT64_MAX;  ///< as known_tokens() says, once something has been read
    std::vector<double> weights;
    std::vector<uint8_t> wanted;  ///< experts that must read, if the router uses probabilities
  };
  /// An expert of which logits are wanted.
  struct Used {
    ConstTensorView logits;
    std::map<int64_t, int32_t> rows;  ///< of the logits, by sequence
  };
  /// What the experts in use say, and who uses which of it how much.
  struct Mixed {
    std::vector<ConstTensorView> logits;  ///< of the experts in use, in the order of their clusters
    ConstTensorView weights, rows;        ///< [sequences, experts in use]
    ConstTensorView uniforms;             ///< float64 [1, sequences]
  };

  /// Memory on the device that is kept from step to step.
  struct KeptMemory {
    DeviceBuffer buffer;
    TensorView view(Device& device, DType dtype, int64_t rows, int64_t columns) {
      const int64_t bytes = rows * columns * dtype_bytes(dtype);
      if (buffer.bytes() < bytes) {
        buffer = {};
        buffer = device.allocate(bytes + bytes / 2, kPurpose);
      }
      return buffer.view(dtype, rows, columns);
    }
  };

  /// `uniforms`: one a sequence, or none. What goes to the device goes in one copy.
  Mixed mix(std::span<const int64_t> sequences, std::span<const double> uniforms) {
    Mixed mixed;
    std::vector<float> weights;
    std::vector<int32_t> rows;
    for (const auto& [cluster, one] : used_) mixed.logits.push_back(one.logits);
    for (const int64_t sequence : sequences)
      for (const auto& [cluster, one] : used_) {
        const auto row = one.rows.find(sequence);
        CBTM_ASSERT(row != one.rows.end() || weight_of(sequence, cluster) == 0, "what is scored has been read");
        weights.push_back(row != one.rows.end() ? static_cast<float>(weight_of(sequence, cluster)) : 0.0f);
        rows.push_back(row != one.rows.end() ? row->second : 0);
      }
    const auto count = static_cast<int64_t>(sequences.size());
    const auto experts = static_cast<int64_t>(used_.size());
    const auto uniform_bytes = static_cast<int64_t>(uniforms.size_bytes()), matrix_bytes = count * experts * 4;
    sent_.resize(static_cast<size_t>(uniform_bytes + 2 * matrix_bytes));
    if (!uniforms.empty()) std::memcpy(sent_.data(), uniforms.data(), uniforms.size_bytes());
    std::memcpy(sent_.data() + uniform_bytes, weights.data(), static_cast<size_t>(matrix_bytes));
    std::memcpy(sent_.data() + uniform_bytes + matrix_bytes, rows.data(), static_cast<size_t>(matrix_bytes));
    const auto bytes = static_cast<int64_t>(sent_.size());
    device_.copy_to_device(received_.view(device_, DType::u8, 1, bytes).data, sent_.data(), bytes);
    if (!uniforms.empty()) mixed.uniforms = received_.buffer.view(DType::f64, 1, count);
    mixed.weights = received_.buffer.view(DType::f32, count, experts, uniform_bytes);
    mixed.rows = received_.buffer.view(DType::i32, count, experts, uniform_bytes + matrix_bytes);
    return mixed;
  }

  MixtureKind kind_of(int64_t sequence) const { return routes_.at(sequence).mixing.kind(); }

  double weight_of(int64_t sequence, int64_t cluster) const {
    return routes_.at(sequence).weights[static_cast<size_t>(cluster)];
  }

  std::vector<int64_t> clusters_of(int64_t sequence) const {
    const Routed& routed = routes_.at(sequence);
    std::vector<int64_t> clusters;
    for (size_t cluster = 0; cluster < routed.weights.size(); ++cluster)
      if (routed.weights[cluster] != 0 || (!routed.wanted.empty() && routed.wanted[cluster] != 0))
        clusters.push_back(static_cast<int64_t>(cluster));
    return clusters;
  }

  /// Closes the caches longest out of use, if this step does not need them; says whether there were any.
  bool drop_oldest() {
    int64_t oldest = step_;
    for (const auto& [cluster, caches] : caches_) oldest = caches.oldest_step(oldest);
    if (oldest == step_) return reclaim_ && reclaim_();
    for (auto& [cluster, caches] : caches_) caches.drop_step(oldest);
    return true;
  }

  /// Notes what was known of the sequences that are now read for the first time.
  void note_known(const ReadPlan& plan) {
    for (const auto& [cluster, reads] : plan.reads)
      for (const PlannedRead& read : reads) {
        Routed& routed = routes_.at(read.sequence);
        if (routed.first_read < 0) routed.first_read = step_;
        if (routed.first_read == step_) routed.known_tokens = std::min(routed.known_tokens, read.begin);
      }
  }

  void update_weights(int64_t sequence) {
    Routed& routed = routes_.at(sequence);
    if (!routed.mixing.coefficients.empty()) {
      routed.weights = routed.mixing.coefficients;
      return;
    }
    const GrowingSequence& text = sequences_.at(sequence);
    const RoutingMethod& router = *routed.mixing.router;
    const auto clusters = static_cast<size_t>(experts_.router().clusters());
    if (router.uses_probabilities()) {
      if (routed.observed < text.length()) observe_text(sequence);
      if (routed.tokens_read == text.length()) return;
      routed.tokens_read = text.length();
      routed.wanted.resize(clusters);
      router.wanted(text.length(), {}, routed.wanted);
      routed.weights.resize(clusters);
      routed.text->weights({}, routed.weights);
      return;
    }
    const int64_t wanted = routed_tokens(routed.mixing.routing, text.length(), text.prompt_length);
    if (routed.tokens_read == wanted) return;
    std::vector<double> distances(clusters);
    for (int64_t n = std::max<int64_t>(0, routed.tokens_read); n < wanted; ++n)
      if (router.uses_distances())
        append_token(experts_.tokenizer(), text.ids[static_cast<size_t>(n)], *routed.context);
    routed.tokens_read = wanted;
    if (router.uses_distances()) routed.context->squared_distances(distances);
    routed.weights.resize(clusters);
    routed.text->weights(distances, routed.weights);
  }

  /// Lets the router know what the experts gave to the tokens of the text that it has not heard of: the prompt's.
  void observe_text(int64_t sequence) {
    Routed& routed = routes_.at(sequence);
    const std::vector<int32_t>& ids = sequences_.at(sequence).ids;
    const auto predicted = static_cast<int32_t>(ids.size()) - 1;
    std::vector<uint8_t> wanted(static_cast<size_t>(experts_.router().clusters()));
    routed.mixing.router->wanted(sequences_.at(sequence).length(), {}, wanted);
    std::vector<int64_t> clusters;
    for (size_t j = 0; j < wanted.size(); ++j)
      if (wanted[j] != 0) clusters.push_back(static_cast<int64_t>(j));
    std::map<int64_t, std::vector<float>> values;  // by cluster
    const std::vector<int32_t> offsets = {0, predicted};
    pool_->for_each(clusters, [&](int64_t cluster, InferenceModel& model) {
      std::vector<float>& out = values[cluster];
      out.resize(static_cast<size_t>(predicted));
      model.target_log_probabilities({std::span(ids).first(out.size()), offsets}, std::span(ids).subspan(1), out);
    });
    std::vector<double> row(wanted.size(), NAN);
    for (; routed.observed < sequences_.at(sequence).length(); ++routed.observed) {
      for (const int64_t cluster : clusters)
        row[static_cast<size_t>(cluster)] =
            static_cast<double>(values.at(cluster)[static_cast<size_t>(routed.observed - 1)]);
      routed.text->observe(row);
    }
  }

  /// The same for the token that was chosen from the logits of the last read. If they are not there any more, the text
  /// is observed as a whole when it is next read.
  void observe_next(int64_t sequence, int32_t id) {
    Routed& routed = routes_.at(sequence);
    std::vector<double> row(routed.weights.size(), NAN);
    constexpr float kAll = 1;
    for (const int64_t cluster : clusters_of(sequence)) {
      const auto used = used_.find(cluster);
      if (used == used_.end() || !used->second.rows.contains(sequence)) return;
      const TensorView out = scores_.view(device_, DType::f32, 1, vocab_size());
      const TensorView weight = received_.view(device_, DType::f32, 1, 1);
      device_.copy_to_device(weight.data, &kAll, sizeof kAll);
      const ConstTensorView logits = used->second.logits.row_range(used->second.rows.at(sequence), 1);
      device_.model_operators().mixture_log_probabilities(
          {.logits = {&logits, 1}, .weights = weight, .log_probabilities = out, .rows = {}});
      float value = 0;
      device_.copy_to_host(&value, out.as<float>() + id, sizeof value);
      row[static_cast<size_t>(cluster)] = static_cast<double>(value);
    }
    routed.text->observe(row);
    ++routed.observed;
  }

  std::shared_ptr<ExpertPool> pool_;
  Device& device_;
  const ExpertSet& experts_;
  SequenceMixing mixing_;          ///< of sequences that do not bring their own
  std::function<bool()> reclaim_;  ///< as set_reclaim says
  int64_t step_ = 0;
  std::map<int64_t, SequenceCaches> caches_;  ///< by cluster
  std::map<int64_t, GrowingSequence> sequences_;
  std::map<int64_t, Routed> routes_;
  std::map<int64_t, Used> used_;           ///< by cluster; of the last read
  std::vector<char> sent_;                 ///< uniforms, weights and rows on their way to the device
  KeptMemory received_, scores_, tokens_;  ///< these; what the operators write
  int64_t next_ = 0;
};

}  // namespace

std::unique_ptr<NextTokenScorer> ensemble_scorer(std::shared_ptr<ExpertPool> pool, const Mixture& mixture,
                                                 const RoutingMode& routing) {
  return std::make_unique<EnsembleScorer>(std::move(pool), SequenceMixing{mixture, routing, {}});
}

std::unique_ptr<NextTokenScorer> ensemble_scorer(std::shared_ptr<ExpertPool> pool,
                                                 std::shared_ptr<const RoutingMethod> router,
                                                 const RoutingMode& routing) {
  return std::make_unique<EnsembleScorer>(std::move(pool), SequenceMixing{{}, routing, {}, std::move(router)});
}

std::unique_ptr<NextTokenScorer> ensemble_scorer(Device& device, const ExpertSet& experts, const Mixture& mixture,
                                                 const RoutingMode& routing, int64_t memory_bytes) {
  return ensemble_scorer(generation_pool(device, experts, memory_bytes), mixture, routing);
}

int64_t default_memory_bytes(const Device& device) { return std::max<int64_t>(1, device.free_bytes() / 10 * 8); }

std::shared_ptr<ExpertPool> generation_pool(Device& device, const ExpertSet& experts, int64_t memory_bytes) {
  return std::make_shared<ExpertPool>(device, experts, memory_bytes > 0 ? memory_bytes : default_memory_bytes(device));
}

}  // namespace cbtm
