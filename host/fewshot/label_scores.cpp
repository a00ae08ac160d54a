#include "cbtm/fewshot/label_scores.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/device.h"

namespace cbtm {
namespace {

/// Tokens that are read in one pass, about.
constexpr int64_t kPassRows = 4096;

/// A sequence that is read: a context and the beginning of a label. The rows after the context's last token and after
/// each of the label's tokens are looked at.
struct Reading {
  size_t context = 0;             ///< which of the contexts
  std::span<const int32_t> kept;  ///< of its tokens, as the label leaves room for
  std::vector<int32_t> begun;     ///< of the label: all tokens but the last
  std::vector<size_t> labels;     ///< whose scores it gives: they have no more tokens than it, and begin as it does

  int64_t rows() const { return static_cast<int64_t>(kept.size() + begun.size()); }
  int64_t scored_rows() const { return static_cast<int64_t>(begun.size()) + 1; }
};

bool begins(const std::vector<int32_t>& whole, std::span<const int32_t> part) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

/// The fewest sequences that give the scores of all labels after one context.
std::vector<Reading> plan(size_t context, const std::vector<int32_t>& ids, const LabelTokens& tokens) {
  std::vector<size_t> order(tokens.labels.size());
  for (size_t label = 0; label < order.size(); ++label) order[label] = label;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tokens.labels[a].size() > tokens.labels[b].size(); });
  std::vector<Reading> readings;
  for (const size_t label : order) {
    const std::vector<int32_t>& all = tokens.labels[label];
    const auto begun = std::span(all).first(all.size() - 1);
    const size_t kept = std::min(ids.size(), static_cast<size_t>(tokens.max_length) - all.size());
    const auto found = std::find_if(readings.begin(), readings.end(), [&](const Reading& reading) {
      return reading.kept.size() == kept && begins(reading.begun, begun);
    });
    if (found != readings.end()) {
      found->labels.push_back(label);
      continue;
    }
    readings.push_back({context, std::span(ids).last(kept), {begun.begin(), begun.end()}, {label}});
  }
  return readings;
}

double log_sum_exp(std::span<const float> logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - static_cast<double>(highest));
  return static_cast<double>(highest) + std::log(sum);
}

/// Sequences of a model that are closed again.
class OpenSequences {
 public:
  explicit OpenSequences(InferenceModel& model) : model_(model) {}
  OpenSequences(const OpenSequences&) = delete;
  ~OpenSequences() {
    for (const int64_t handle : handles_) model_.close_sequence(handle);
  }
  int64_t open() { return handles_.emplace_back(model_.open_sequence()); }

 private:
  InferenceModel& model_;
  std::vector<int64_t> handles_;
};

/// Reads these sequences in one go, and keeps the scores.
void read(InferenceModel& model, std::span<const Reading> readings, const LabelTokens& tokens,
          std::vector<LabelLogProbabilities>& scores) {
  OpenSequences sequences(model);
  ReadPass contexts, tails;
  for (const Reading& reading : readings) {
    const int64_t handle = sequences.open();
    model.reserve(handle, reading.rows());
    const size_t before = reading.kept.size() - 1;
    if (before > 0) contexts.add(handle, reading.kept.first(before), false);
    std::vector<int32_t> tail = {reading.kept.back()};
    tail.insert(tail.end(), reading.begun.begin(), reading.begun.end());
    tails.add_scored(handle, tail);
  }
  std::vector<ReadPass> passes;
  if (!contexts.handles.empty()) passes.push_back(std::move(contexts));
  passes.push_back(std::move(tails));
  const ConstTensorView logits = model.read(passes);
  std::vector<float> row(static_cast<size_t>(logits.columns));
  int64_t at = 0;
  for (const Reading& reading : readings)
    for (int64_t place = 0; place < reading.scored_rows(); ++place, ++at) {
      model.device().copy_to_host(row.data(), logits.row_range(at, 1).data, logits.columns * 4);
      const double sum = log_sum_exp(row);
      for (const size_t label : reading.labels) {
        const std::vector<int32_t>& ids = tokens.labels[label];
        if (place >= static_cast<int64_t>(ids.size())) continue;
        const double value = static_cast<double>(row[static_cast<size_t>(ids[static_cast<size_t>(place)])]) - sum;
        if (std::isnan(value)) fail("a label's probability is not a number; the model's weights are damaged");
        scores[reading.context][label].push_back(value);
      }
    }
}

}  // namespace

LabelTokens label_tokens(const FewShotTask& task, const Tokenizer& tokenizer, int64_t positions) {
  LabelTokens tokens{.suffix = tokenizer.encode(task.suffix), .max_length = task.max_length};
  if (tokens.suffix.empty()) fail("task {}: the suffix is no token; it must have at least one", task.name);
  if (task.max_length > positions)
    fail("task {}: max_length is {}, but the model has {} positions; lower max_length in the task file", task.name,
         task.max_length, positions);
  for (const std::string& label : task.labels) {
    tokens.labels.push_back(tokenizer.encode(" " + label));
    if (static_cast<int64_t>(tokens.labels.back().size()) >= task.max_length)
      fail("task {}: the label '{}' has {} tokens, so that max_length {} leaves no room for a prompt", task.name, label,
           tokens.labels.back().size(), task.max_length);
  }
  return tokens;
}

std::vector<LabelLogProbabilities> score_labels(InferenceModel& model, std::span<const std::vector<int32_t>> contexts,
                                                const LabelTokens& tokens) {
  std::vector<LabelLogProbabilities> scores(contexts.size(), LabelLogProbabilities(tokens.labels.size()));
  std::vector<Reading> group;
  int64_t rows = 0;
  const auto flush = [&] {
    if (group.empty()) return;
    stop_if_requested("few-shot scoring");
    read(model, group, tokens, scores);
    group.clear();
    rows = 0;
  };
  for (size_t context = 0; context < contexts.size(); ++context) {
    CBTM_ASSERT(!contexts[context].empty(), "a context has a token");
    for (Reading& reading : plan(context, contexts[context], tokens)) {
      if (rows > 0 && rows + reading.rows() > kPassRows) flush();
      rows += reading.rows();
      group.push_back(std::move(reading));
    }
  }
  flush();
  return scores;
}

}  // namespace cbtm
