#include "ensemble/sequence_caches.h"

#include <algorithm>

namespace cbtm {
namespace {

/// Rows of a pass over several prompts, about.
constexpr int64_t kPassRows = 4096;

/// A range of tokens of a sequence, read in one pass.
struct Range {
  int64_t sequence;
  int64_t begin, end;
  bool wanted;
};

/// The passes' ranges of one step: pieces of prompts, those of one sequence in different rounds, then one round of all
/// that is decoded.
struct Rounds {
  std::vector<std::vector<Range>> prompts;
  std::vector<Range> decoded;

  void add(const PlannedRead& read, const GrowingSequence& sequence) {
    int64_t begin = read.begin;
    for (size_t round = 0; begin < read.end && !unit_is_decoded(sequence, begin); ++round) {
      const int64_t end = unit_end(sequence, begin);
      prompts.resize(std::max(prompts.size(), round + 1));
      prompts[round].push_back({read.sequence, begin, end, read.to_the_end && end == read.end});
      begin = end;
    }
    if (begin < read.end) decoded.push_back({read.sequence, begin, read.end, read.to_the_end});
  }
};

}  // namespace

int64_t unit_end(const GrowingSequence& sequence, int64_t position) {
  if (position >= sequence.prompt_length) return position + 1;
  return std::min((position / kPromptPiece + 1) * kPromptPiece, sequence.prompt_length);
}

bool unit_is_decoded(const GrowingSequence& sequence, int64_t position) {
  return position >= sequence.prompt_length ||
         unit_end(sequence, position) - position / kPromptPiece * kPromptPiece <= kDecodedPiece;
}

int64_t last_unit(const GrowingSequence& sequence) {
  if (sequence.length() > sequence.prompt_length) return sequence.length() - 1;
  return (sequence.prompt_length - 1) / kPromptPiece * kPromptPiece;
}

int64_t shared_unit(const InferenceModel& model) {
  const int64_t page = model.shared_page_tokens();
  return page == 0 || model.prompts_share_passes() ? page : kPromptPiece;
}

SequenceCaches::~SequenceCaches() {
  for (const auto& [sequence, cached] : cached_) model_->close_sequence(cached.handle);
}

void SequenceCaches::touch(int64_t sequence, const GrowingSequence& text, int64_t step) {
  auto [place, fresh] = cached_.try_emplace(sequence);
  Cached& cached = place->second;
  cached.step = step;
  if (!fresh && model_->sequence_length(cached.handle) >= text.length()) {
    // Read to its end before, and not scored: it is read again, for its logits are gone.
    model_->close_sequence(cached.handle);
    fresh = true;
  }
  if (fresh) cached.handle = model_->open_sequence();
  // At least one token is left to be read: the next one is scored after it.
  const auto known_max = static_cast<size_t>(std::min(text.prompt_length, text.length() - 1));
  if (const int64_t unit = shared_unit(); unit > 0)
    model_->begin_prompt(cached.handle, std::span(text.ids).first(known_max), unit);
}

int64_t SequenceCaches::length(int64_t sequence) const {
  const auto found = cached_.find(sequence);
  return found == cached_.end() ? 0 : model_->sequence_length(found->second.handle);
}

void SequenceCaches::reserve(const std::vector<PlannedRead>& reads) {
  for (const PlannedRead& read : reads) model_->reserve(cached_.at(read.sequence).handle, read.end);
}

ConstTensorView SequenceCaches::read(const std::vector<PlannedRead>& reads,
                                     const std::map<int64_t, GrowingSequence>& sequences,
                                     std::map<int64_t, int32_t>& rows) {
  Rounds rounds;
  for (const PlannedRead& read : reads) rounds.add(read, sequences.at(read.sequence));
  std::vector<ReadPass> passes;
  const auto add = [&](const Range& range) {
    const std::vector<int32_t>& ids = sequences.at(range.sequence).ids;
    passes.back().add(
        cached_.at(range.sequence).handle,
        std::span(ids).subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.end - range.begin)),
        range.wanted);
    if (range.wanted) rows.emplace(range.sequence, static_cast<int32_t>(rows.size()));
  };
  for (const std::vector<Range>& round : rounds.prompts) {
    int64_t pass_rows = kPassRows;
    for (const Range& range : round) {
      pass_rows += range.end - range.begin;
      if (pass_rows > kPassRows || !model_->prompts_share_passes()) {
        passes.push_back({.row_sums = RowSums::prompt});
        pass_rows = range.end - range.begin;
      }
      add(range);
    }
  }
  if (!rounds.decoded.empty()) passes.push_back({.row_sums = RowSums::decode});
  for (const Range& range : rounds.decoded) add(range);
  try {
    const ConstTensorView logits = model_->read(passes);
    for (const PlannedRead& read : reads) {
      const GrowingSequence& text = sequences.at(read.sequence);
      if (read.begin >= text.prompt_length || shared_unit() == 0) continue;
      const auto prompt = std::span(text.ids).first(static_cast<size_t>(std::min(read.end, text.prompt_length)));
      model_->share_prompt(cached_.at(read.sequence).handle, prompt, shared_unit());
    }
    return logits;
  } catch (...) {  // which of the tokens have been read is not known
    for (const PlannedRead& read : reads) drop(read.sequence);
    throw;
  }
}

int64_t SequenceCaches::oldest_step(int64_t none) const {
  for (const auto& [sequence, cached] : cached_) none = std::min(none, cached.step);
  return none;
}

void SequenceCaches::drop_step(int64_t step) {
  std::erase_if(cached_, [&](const auto& entry) {
    if (entry.second.step != step) return false;
    model_->close_sequence(entry.second.handle);
    return true;
  });
}

void SequenceCaches::drop(int64_t sequence) {
  const auto found = cached_.find(sequence);
  if (found == cached_.end()) return;
  model_->close_sequence(found->second.handle);
  cached_.erase(found);
}

}  // namespace cbtm
