#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cbtm/device/output_operands.h"
#include "cbtm/device/token_filter.h"
#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/inference.h"
#include "cbtm/route/mixture.h"
#include "cbtm/route/routing_method.h"
#include "cbtm/route/routing_mode.h"

namespace cbtm {

/// How the next token of a sequence is to be chosen.
struct TokenChoice {
  int64_t sequence = 0;
  bool greedy = false;
  TokenFilter filter;
  double uniform = 0;  ///< in [0, 1), drawn for this token; not used if greedy
};

/// How one sequence mixes the experts.
struct SequenceMixing {
  Mixture mixture;
  RoutingMode routing;
  std::vector<uint8_t> present;  ///< by cluster: 1 if the expert may be used; not only zeros
  /// Weighs the experts instead of `mixture` and `present`, if it is set. It must not carry over from text to text.
  std::shared_ptr<const RoutingMethod> router = nullptr;
  /// By cluster, or empty. With them nothing is routed: p(token) is in proportion to exp(Σ_j c_j log p_j(token)), over
  /// the experts whose coefficient is not 0 (docs/method.md, 'Coefficients'). Experts must be present; not only zeros.
  std::vector<double> coefficients = {};

  MixtureKind kind() const { return coefficients.empty() ? MixtureKind::sum : MixtureKind::product; }
};

/// Scores the next token of growing sequences, with one model or an ensemble. A sequence's scores have the same bits
/// whatever other sequences there are, however much is read at a time, and whether its caches were dropped in between
/// (docs/numerics.md, 'Sessions').
class NextTokenScorer {
 public:
  virtual ~NextTokenScorer() = default;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_length() const = 0;

  /// A new sequence that begins with this prompt of at least one token; returns its number. `mixing` is how it mixes
  /// the experts; without it the scorer's own settings apply, and one model has nothing to mix.
  virtual int64_t open(std::vector<int32_t> prompt, const std::optional<SequenceMixing>& mixing) = 0;
  int64_t open(std::vector<int32_t> prompt) { return open(std::move(prompt), std::nullopt); }
  virtual void append(int64_t sequence, int32_t id) = 0;
  virtual void close(int64_t sequence) = 0;
  /// Gives up the caches of a sequence. They are read again when it is next needed.
  virtual void drop_caches(int64_t sequence) = 0;
  /// `reclaim` is asked for memory when the caches are full and nothing of the scorer's own can be given up. It closes
  /// caches that others have in the same memory, and says whether it closed any.
  virtual void set_reclaim(std::function<bool()> reclaim) { static_cast<void>(reclaim); }

  /// Reads what these sequences' models have not read yet: of a sequence that was read before the newest token, of
  /// others about `prompt_rows` tokens a model altogether, first come, first served. Returns those that have been read
  /// to their ends, in the order of `sequences`, whose next tokens can be scored and chosen until the next call of
  /// another function than these two. Throws CacheFull, and has then read nothing.
  virtual std::vector<int64_t> read(std::span<const int64_t> sequences, int64_t prompt_rows) = 0;
  /// Scores (logits or log-probabilities) of the next tokens: [sequences, vocab_size].
  virtual void score(std::span<const int64_t> sequences, std::vector<float>& scores) = 0;
  /// Log-probabilities of the next tokens: [sequences, vocab_size]. As score() gives them, if it gives such.
  virtual void log_probabilities(std::span<const int64_t> sequences, std::vector<float>& out) { score(sequences, out); }
  /// Chooses next tokens as choose_token does, without a repetition penalty. If possible the scores stay on the device.
  virtual std::vector<int32_t> choose(std::span<const TokenChoice> choices);
  /// The weights by cluster, or the coefficients, that the last score of a sequence was mixed with. Empty for one
  /// model.
  virtual std::vector<double> weights(int64_t sequence) const = 0;
  /// Tokens of the prompt that none of the models had to read when the sequence was first read, because they had read
  /// them for others.
  virtual int64_t known_tokens(int64_t sequence) const = 0;
};

std::unique_ptr<NextTokenScorer> model_scorer(std::unique_ptr<InferenceModel> model);
/// Each expert keeps a key-value cache of each sequence that has used it. An expert that is used for the first time
/// reads the whole text once. A pool serves one scorer at a time.
std::unique_ptr<NextTokenScorer> ensemble_scorer(std::shared_ptr<ExpertPool> pool, const Mixture& mixture,
                                                 const RoutingMode& routing);
/// The same by any router. With one that uses the experts' probabilities, every expert that it wants reads every token:
/// the prompt once more by itself when a sequence is first read, for the probabilities of its tokens.
std::unique_ptr<NextTokenScorer> ensemble_scorer(std::shared_ptr<ExpertPool> pool,
                                                 std::shared_ptr<const RoutingMethod> router,
                                                 const RoutingMode& routing);
/// The same with a pool of its own.
std::unique_ptr<NextTokenScorer> ensemble_scorer(Device& device, const ExpertSet& experts, const Mixture& mixture,
                                                 const RoutingMode& routing, int64_t memory_bytes = 0);
/// A pool for several generations one after another. `memory_bytes` is for weights and caches; 0 means most of what is
/// free.
/// The bytes that weights and caches may take if nobody says how many: most of what is free.
int64_t default_memory_bytes(const Device& device);
std::shared_ptr<ExpertPool> generation_pool(Device& device, const ExpertSet& experts, int64_t memory_bytes = 0);

}  // namespace cbtm
