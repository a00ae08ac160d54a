#pragma once

#include <map>
#include <vector>

#include "cbtm/ensemble/next_token_scorer.h"

namespace cbtm {

/// The scores of the next token after each text: to compare bit for bit.
using ScoresByText = std::map<std::vector<int32_t>, std::vector<float>>;

/// Another scorer that remembers all scores that tokens are chosen from.
class RecordingScorer : public NextTokenScorer {
 public:
  RecordingScorer(NextTokenScorer& inner, ScoresByText& scores) : inner_(inner), recorded_(scores) {}

  int64_t vocab_size() const override { return inner_.vocab_size(); }
  int64_t max_length() const override { return inner_.max_length(); }
  using NextTokenScorer::open;
  int64_t open(std::vector<int32_t> prompt, const std::optional<SequenceMixing>& mixing) override {
    const int64_t sequence = inner_.open(prompt, mixing);
    texts_[sequence] = std::move(prompt);
    return sequence;
  }
  void append(int64_t sequence, int32_t id) override {
    texts_.at(sequence).push_back(id);
    inner_.append(sequence, id);
  }
  void close(int64_t sequence) override {
    texts_.erase(sequence);
    inner_.close(sequence);
  }
  void drop_caches(int64_t sequence) override { inner_.drop_caches(sequence); }
  std::vector<int64_t> read(std::span<const int64_t> sequences, int64_t prompt_rows) override {
    return inner_.read(sequences, prompt_rows);
  }
  void score(std::span<const int64_t> sequences, std::vector<float>& scores) override {
    inner_.score(sequences, scores);
    const auto vocab = static_cast<int64_t>(vocab_size());
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto first = scores.begin() + static_cast<int64_t>(s) * vocab;
      recorded_[texts_.at(sequences[s])] = {first, first + vocab};
    }
  }
  std::vector<int32_t> choose(std::span<const TokenChoice> choices) override {
    std::vector<int64_t> sequences;
    for (const TokenChoice& choice : choices) sequences.push_back(choice.sequence);
    std::vector<float> scores;
    score(sequences, scores);
    return inner_.choose(choices);
  }
  std::vector<double> weights(int64_t sequence) const override { return inner_.weights(sequence); }
  int64_t known_tokens(int64_t sequence) const override { return inner_.known_tokens(sequence); }

 private:
  NextTokenScorer& inner_;
  ScoresByText& recorded_;
  std::map<int64_t, std::vector<int32_t>> texts_;
};

}  // namespace cbtm
