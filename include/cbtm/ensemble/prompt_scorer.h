#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cbtm/device/device_buffer.h"
#include "cbtm/ensemble/expert_pool.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/ensemble/token_score.h"

namespace cbtm {

/// What a prompt's tokens were worth.
struct PromptScores {
  std::vector<TokenScore> tokens;            ///< of the second token, the third, ..., and the last
  std::vector<std::vector<double>> weights;  ///< by cluster, of the same tokens, then of the next; empty for one model
  std::vector<float> next_scores;            ///< of the token after the prompt, as NextTokenScorer::score gives them
  std::vector<float> next_log_probabilities;
};

/// Scores every token of prompts, with one model or an ensemble: what `echo` with log-probabilities needs, and what
/// harnesses for evaluation measure. Prompts are read in the same units and by the same kernels as in a session
/// (docs/numerics.md, 'Sessions'), so a prompt's scores do not depend on the others, and the scores of the token after
/// it have the bits that a session has there.
///
/// It may share the memory of its experts with a scorer: give drop_caches() to NextTokenScorer::set_reclaim. Between
/// the steps it holds the caches of prompts that have not been read to their ends.
class PromptScorer {
 public:
  /// The pool or model must outlive this object. `mixing` is for prompts that do not bring their own.
  PromptScorer(std::shared_ptr<ExpertPool> pool, SequenceMixing mixing);
  explicit PromptScorer(InferenceModel& model);
  ~PromptScorer();
  PromptScorer(const PromptScorer&) = delete;
  PromptScorer& operator=(const PromptScorer&) = delete;

  /// A prompt of at least one token and at most the models' max_length(), with ids of the vocabulary. `top` is as in
  /// token_score(). Returns its number.
  int64_t add(std::vector<int32_t> prompt, int64_t top, const std::optional<SequenceMixing>& mixing);
  /// Reads the next unit of as many prompts as have about `rows` tokens together, first come, first served. Returns
  /// the prompts that have been read to their ends. Throws CacheFull if not even one unit of the first fits.
  std::vector<int64_t> step(int64_t rows);
  /// Takes a prompt out, whether it has been read to its end or not.
  PromptScores remove(int64_t prompt);
  bool idle() const { return waiting_.empty(); }
  /// The first of those that have not been read to their ends.
  int64_t first() const { return waiting_.front(); }
  /// Closes all caches, and says whether there were any. They are read again when they are needed. Within step() it
  /// does nothing.
  bool drop_caches() { return !stepping_ && close_all(); }

 private:
  struct Prompt;
  struct Slice;
  using Models = std::map<int64_t, std::map<int64_t, int64_t>>;  ///< handles, by cluster and prompt

  InferenceModel& model(int64_t cluster);
  void weigh(Prompt& prompt);
  std::vector<int64_t> choose_prompts(int64_t rows) const;
  void read(const std::vector<int64_t>& prompts);
  void reserve(const std::vector<int64_t>& prompts);
  void close(int64_t prompt);
  bool close_all();
  void keep_scores(const Slice& slice, std::span<float> scores);

  Device& device_;
  std::shared_ptr<ExpertPool> pool_;  ///< or null: one model
  InferenceModel* model_ = nullptr;
  SequenceMixing mixing_;
  std::map<int64_t, std::unique_ptr<Prompt>> prompts_;
  std::deque<int64_t> waiting_;  ///< in the order of their arrival
  Models handles_;
  DeviceBuffer mixed_, weights_;  ///< of a slice of rows
  bool stepping_ = false;
  int64_t next_ = 0;
};

}  // namespace cbtm
