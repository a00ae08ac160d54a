#include "ensemble/read_plan.h"

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

}  // namespace

ReadPlan plan_reads(std::span<const int64_t> sequences, const std::map<int64_t, GrowingSequence>& texts,
                    const std::function<std::vector<int64_t>(int64_t sequence)>& models_of,
                    const std::function<int64_t(int64_t model, int64_t sequence)>& length, int64_t prompt_rows) {
  ReadPlan plan;
  std::map<int64_t, int64_t> rows_left;  // by model
  for (const int64_t sequence : sequences) {
    const GrowingSequence& text = texts.at(sequence);
    const std::vector<int64_t> models = models_of(sequence);
    bool complete = true;
    for (const int64_t model : models) {
      const int64_t begin = length(model, sequence);
      const int64_t rows = rows_left.try_emplace(model, prompt_rows).first->second;
      complete = complete && (text.length() - begin == 1 || reach(text, begin, text.length(), rows) == text.length());
    }
    for (const int64_t model : models) {
      const int64_t begin = length(model, sequence);
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
