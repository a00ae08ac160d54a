#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/sampling.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// Scores the next token of several growing sequences, with one model or an ensemble.
class NextTokenScorer {
 public:
  virtual ~NextTokenScorer() = default;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_length() const = 0;
  /// Starts one sequence per prompt. Sequences are numbered from 0.
  virtual void start(const std::vector<std::vector<int32_t>>& prompts) = 0;
  /// Scores (logits or log-probabilities) of the next token of these sequences: [sequences, vocab_size].
  virtual void score(const std::vector<int64_t>& sequences, std::vector<float>& scores) = 0;
  /// Chooses a token from those scores as choose_token does, without a repetition penalty. If possible the scores stay
  /// on the device. `uniforms` holds one number in [0, 1) per sequence; it is not used if greedy.
  virtual std::vector<int32_t> choose(const std::vector<int64_t>& sequences, const SamplingOptions& sampling,
                                      const std::vector<double>& uniforms);
  virtual void append(int64_t sequence, int32_t id) = 0;
  /// The weights by cluster that the last score of a sequence was mixed with. Empty for one model.
  virtual std::vector<double> weights(int64_t sequence) const = 0;
};

std::unique_ptr<NextTokenScorer> model_scorer(std::unique_ptr<InferenceModel> model);
/// Each expert keeps a key-value cache of each sequence that has used it. An expert that is used for the first time
/// reads the whole text once. A pool serves one scorer at a time.
std::unique_ptr<NextTokenScorer> ensemble_scorer(std::shared_ptr<ExpertPool> pool, const Mixture& mixture,
                                                 const RoutingMode& routing);
/// The same with a pool of its own.
std::unique_ptr<NextTokenScorer> ensemble_scorer(Device& device, const ExpertSet& experts, const Mixture& mixture,
                                                 const RoutingMode& routing, int64_t memory_bytes = 0);
/// A pool for several generations one after another. `memory_bytes` is for weights and caches; 0 means most of what is
/// free.
std::shared_ptr<ExpertPool> generation_pool(Device& device, const ExpertSet& experts, int64_t memory_bytes = 0);

struct GenerationOptions {
  int64_t new_tokens_max = 128;
  SamplingOptions sampling;
  std::vector<int32_t> eos_ids = {2};
  bool ignore_eos = false;
  std::vector<std::string> stop;  ///< a sequence ends before the first of these strings
  uint64_t seed = 1234;
  /// Called with whole characters of sequence 0 as they come.
  std::function<void(const std::string&)> stream;
};

struct Generated {
  std::vector<int32_t> ids;                  ///< new tokens, without the one that ended it
  std::string text;                          ///< of the new tokens; cut before a stop string
  std::string finish;                        ///< "length", "eos" or "stop"
  std::vector<std::vector<double>> weights;  ///< one list per new token, by cluster; empty for one model
};

/// Continues every prompt. Without a tokenizer the result has ids but no text. Throws Error if a prompt is empty, holds
/// an id outside the vocabulary, or leaves no room for a token.
std::vector<Generated> generate(NextTokenScorer& scorer, const Tokenizer* tokenizer,
                                const std::vector<std::vector<int32_t>>& prompts, const GenerationOptions& options);

}  // namespace cbtm
