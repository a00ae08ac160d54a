#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/ensemble/token_score.h"
#include "cbtm/model/sampling.h"
#include "ensemble/read_plan.h"

namespace cbtm {
namespace {

class ModelScorer : public NextTokenScorer {
 public:
  explicit ModelScorer(std::unique_ptr<InferenceModel> model) : model_(std::move(model)), caches_(*model_) {}
  int64_t vocab_size() const override { return model_->vocab_size(); }
  int64_t max_length() const override { return model_->max_length(); }

  using NextTokenScorer::open;
  int64_t open(std::vector<int32_t> prompt, const std::optional<SequenceMixing>& mixing) override {
    CBTM_ASSERT(!mixing, "one model has nothing to mix");
    const auto length = static_cast<int64_t>(prompt.size());
    sequences_.emplace(next_, GrowingSequence{std::move(prompt), length});
    return next_++;
  }
  void append(int64_t sequence, int32_t id) override { sequences_.at(sequence).ids.push_back(id); }
  void close(int64_t sequence) override {
    caches_.drop(sequence);
    sequences_.erase(sequence);
    known_.erase(sequence);
  }
  void drop_caches(int64_t sequence) override { caches_.drop(sequence); }

  std::vector<int64_t> read(std::span<const int64_t> sequences, int64_t prompt_rows) override {
    rows_.clear();
    for (const int64_t sequence : sequences) caches_.touch(sequence, sequences_.at(sequence), 0);
    const ReadPlan plan = plan_reads(sequences, sequences_,
                                     {.models_of = [](int64_t) { return std::vector<int64_t>{0}; },
                                      .length = [this](int64_t, int64_t sequence) { return caches_.length(sequence); },
                                      .shared_unit = [this](int64_t) { return caches_.shared_unit(); }},
                                     prompt_rows);
    if (plan.reads.empty()) return {};
    const std::vector<PlannedRead>& reads = plan.reads.begin()->second;
    caches_.reserve(reads);
    for (const PlannedRead& read : reads) known_.try_emplace(read.sequence, read.begin);
    logits_ = caches_.read(reads, sequences_, rows_);
    return plan.complete;
  }

  void score(std::span<const int64_t> sequences, std::vector<float>& scores) override {
    const auto vocab = static_cast<size_t>(vocab_size());
    scores.resize(sequences.size() * vocab);
    for (size_t first = 0, last; first < sequences.size(); first = last) {  // a copy for rows that follow one another
      const int64_t row = rows_.at(sequences[first]);
      for (last = first + 1; last < sequences.size(); ++last)
        if (rows_.at(sequences[last]) != row + static_cast<int64_t>(last - first)) break;
      const auto count = static_cast<int64_t>(last - first);
      model_->device().copy_to_host(scores.data() + first * vocab, logits_.row_range(row, count).data,
                                    count * vocab_size() * 4);
    }
  }

  void log_probabilities(std::span<const int64_t> sequences, std::vector<float>& out) override {
    score(sequences, out);
    const auto vocab = static_cast<size_t>(vocab_size());
    for (size_t row = 0; row < sequences.size(); ++row)
      to_log_probabilities(std::span(out).subspan(row * vocab, vocab));
  }

  std::vector<double> weights(int64_t) const override { return {}; }
  int64_t known_tokens(int64_t sequence) const override { return known_.contains(sequence) ? known_.at(sequence) : 0; }

 private:
  std::unique_ptr<InferenceModel> model_;
  SequenceCaches caches_;
  std::map<int64_t, GrowingSequence> sequences_;
  std::map<int64_t, int64_t> known_;  ///< as known_tokens() says, by sequence that has been read
  ConstTensorView logits_;            ///< of the last read
  std::map<int64_t, int32_t> rows_;   ///< of the logits, by sequence
  int64_t next_ = 0;
};

}  // namespace

std::vector<int32_t> NextTokenScorer::choose(std::span<const TokenChoice> choices) {
  std::vector<int64_t> sequences;
  for (const TokenChoice& choice : choices) sequences.push_back(choice.sequence);
  std::vector<float> scores;
  score(sequences, scores);
  const auto vocab = static_cast<size_t>(vocab_size());
  std::vector<int32_t> ids;
  for (size_t s = 0; s < choices.size(); ++s) {
    const std::span<float> row = std::span(scores).subspan(s * vocab, vocab);
    if (choices[s].greedy) {
      ids.push_back(most_likely_token(row));
      continue;
    }
    filtered_distribution(row, choices[s].filter);
    ids.push_back(token_at(row, choices[s].uniform));
  }
  return ids;
}

std::unique_ptr<NextTokenScorer> model_scorer(std::unique_ptr<InferenceModel> model) {
  return std::make_unique<ModelScorer>(std::move(model));
}

}  // namespace cbtm
