#include "ensemble/read_plan.h"

#include <algorithm>

namespace cbtm {
namespace {

/// How far a model comes from `position` with so many rows, in whole units; a unit may take more than what is left of
/// them.
int64_t reach(const GrowingSequence& text, int64_t position, int64_t end, int64_t rows) {
  for (; position < end && rows > 0;) {
    const int64_t next = unit_end(text, position);
    rows -= next - position;
    position = next;
  }
  return position;
}

/// Whether a model is going to read tokens for another sequence that this one can share, of which it has read `length`.
bool is_read_for_another(const GrowingSequence& text, int64_t length, const std::vector<PlannedRead>& reads,
                         const std::map<int64_t, GrowingSequence>& texts, int64_t unit) {
  const int64_t known_max = std::min(text.prompt_length, text.length() - 1) / unit * unit;
  return std::ranges::any_of(reads, [&](const PlannedRead& read) {
    const GrowingSequence& other = texts.at(read.sequence);
    const int64_t end = std::min({known_max, read.end, other.prompt_length});
    if (read.begin >= other.prompt_length || end < length + unit) return false;
    return std::equal(text.ids.begin(), text.ids.begin() + length + unit, other.ids.begin());
  });
}

}  // namespace

ReadPlan plan_reads(std::span<const int64_t> sequences, const std::map<int64_t, GrowingSequence>& texts,
                    const ReadState& state, int64_t prompt_rows) {
  ReadPlan plan;
  std::map<int64_t, int64_t> rows_left;  // by model
  for (const int64_t sequence : sequences) {
    const GrowingSequence& text = texts.at(sequence);
    const std::vector<int64_t> models = state.models_of(sequence);
    const auto length = [&](int64_t model) { return state.length(model, sequence); };
    const bool waits = std::ranges::any_of(models, [&](int64_t model) {
      const int64_t unit = state.shared_unit(model);
      const auto reads = plan.reads.find(model);
      return unit > 0 && reads != plan.reads.end() &&
             is_read_for_another(text, length(model), reads->second, texts, unit);
    });
    if (waits) continue;
    bool complete = true;
    for (const int64_t model : models) {
      const int64_t begin = length(model);
      const int64_t rows = rows_left.try_emplace(model, prompt_rows).first->second;
      complete = complete && (text.length() - begin == 1 || reach(text, begin, text.length(), rows) == text.length());
    }
    for (const int64_t model : models) {
      const int64_t begin = length(model);
      int64_t& rows = rows_left.at(model);
      const int64_t end = complete ? text.length() : reach(text, begin, last_unit(text), rows);
      if (text.length() - begin > 1) rows -= end - begin;
      if (end > begin) plan.reads[model].push_back({sequence, begin, end, complete});
    }
    if (complete) plan.complete.push_back(sequence);
  }
  return plan;
}

}  // namespace cbtm
