#include "cbtm/fewshot/label_scores.h"

#include <algorithm>
#include <cmath>
#include <functional>

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

/// The tokens of a reading before the last of its context: what other readings may share.
std::span<const int32_t> shareable(const Reading& reading) { return reading.kept.first(reading.kept.size() - 1); }

size_t common_length(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(end.first - a.begin());
}

/// The beginning that saves most when it is read once: the demonstrations of a seed. Whole pages of `page` tokens of
/// the first reading, as many as are worth most over all readings that begin so; none if no other reading does.
std::span<const int32_t> common_beginning(std::span<const Reading> readings, size_t page) {
  const std::span<const int32_t> first = shareable(readings.front());
  std::vector<size_t> pages;
  for (const Reading& reading : readings.subspan(1)) pages.push_back(common_length(first, shareable(reading)) / page);
  std::sort(pages.begin(), pages.end(), std::greater<>());
  size_t best = 0, saved = 0;
  for (size_t others = 1; others <= pages.size(); ++others)
    if (others * pages[others - 1] > saved) {
      saved = others * pages[others - 1];
      best = pages[others - 1];
    }
  return first.first(best * page);
}

/// Reads sequences of one model and keeps their scores. Where the model's caches have pages that sequences can share,
/// what several of them begin with is read once: the beginning that all have in common, and of each context all that
/// its labels follow.
class Reader {
 public:
  Reader(InferenceModel& model, const LabelTokens& tokens, std::vector<LabelLogProbabilities>& scores)
      : model_(model),
        tokens_(tokens),
        scores_(scores),
        page_(model.shared_page_tokens()),
        // Where a row has the same bits whatever is read with it, what is shared changes no bit of a score.
        row_sums_(model.prompts_share_passes() ? RowSums::prompt : RowSums::any),
        beginning_(model) {}

  /// Reads what they have in common, and holds it as long as this object lives.
  void hold_beginning(std::span<const Reading> readings) {
    if (page_ == 0 || readings.size() < 2) return;
    common_ = common_beginning(readings, static_cast<size_t>(page_));
    if (common_.empty()) return;
    const int64_t handle = beginning_.open();
    model_.reserve(handle, static_cast<int64_t>(common_.size()));
    ReadPass pass{.row_sums = row_sums_};
    pass.add(handle, common_, false);
    model_.read(std::span(&pass, 1));
    model_.share_prompt(handle, common_, page_);
  }

  /// Tokens of a reading that are read for it alone.
  int64_t rows(const Reading& reading) const {
    const bool held = common_length(common_, shareable(reading)) == common_.size();
    return reading.rows() - (held ? static_cast<int64_t>(common_.size()) : 0);
  }

  /// Reads these in one go.
  void read(std::span<const Reading> readings) {
    OpenSequences sequences(model_);
    ReadPass contexts{.row_sums = row_sums_}, again{.row_sums = row_sums_}, tails{.row_sums = row_sums_};
    std::vector<int64_t> handles;
    std::vector<size_t> later;  // readings of a context that another of these reads
    for (size_t i = 0; i < readings.size(); ++i) {
      handles.push_back(sequences.open());
      const bool repeats = page_ > 0 && i > 0 && readings[i - 1].context == readings[i].context &&
                           readings[i - 1].kept.size() == readings[i].kept.size();
      if (repeats)
        later.push_back(i);
      else
        add_context(readings[i], handles.back(), contexts);
    }
    if (!later.empty() && !contexts.handles.empty()) {
      model_.read(std::span(&contexts, 1));
      contexts = ReadPass{.row_sums = row_sums_};
      for (size_t i = 0; i < readings.size(); ++i)
        if (!std::binary_search(later.begin(), later.end(), i))
          model_.share_prompt(handles[i], shareable(readings[i]), page_);
    }
    for (const size_t i : later) add_context(readings[i], handles[i], again);
    for (size_t i = 0; i < readings.size(); ++i) {
      std::vector<int32_t> tail = {readings[i].kept.back()};
      tail.insert(tail.end(), readings[i].begun.begin(), readings[i].begun.end());
      tails.add_scored(handles[i], tail);
    }
    std::vector<ReadPass> passes;
    for (ReadPass* pass : {&contexts, &again})
      if (!pass->handles.empty()) passes.push_back(std::move(*pass));
    passes.push_back(std::move(tails));
    keep_scores(readings, model_.read(passes));
  }

 private:
  /// The tokens of a context that no other sequence has read, but for its last.
  void add_context(const Reading& reading, int64_t handle, ReadPass& pass) {
    const std::span<const int32_t> before = shareable(reading);
    if (page_ > 0) model_.begin_prompt(handle, before, page_);
    model_.reserve(handle, reading.rows());
    const auto known = static_cast<size_t>(model_.sequence_length(handle));
    if (known < before.size()) pass.add(handle, before.subspan(known), false);
  }

  void keep_scores(std::span<const Reading> readings, ConstTensorView logits) {
    std::vector<float> row(static_cast<size_t>(logits.columns));
    int64_t at = 0;
    for (const Reading& reading : readings)
      for (int64_t place = 0; place < reading.scored_rows(); ++place, ++at) {
        model_.device().copy_to_host(row.data(), logits.row_range(at, 1).data, logits.columns * 4);
        const double sum = log_sum_exp(row);
        for (const size_t label : reading.labels) {
          const std::vector<int32_t>& ids = tokens_.labels[label];
          if (place >= static_cast<int64_t>(ids.size())) continue;
          const double value = static_cast<double>(row[static_cast<size_t>(ids[static_cast<size_t>(place)])]) - sum;
          if (std::isnan(value)) fail("a label's probability is not a number; the model's weights are damaged");
          scores_[reading.context][label].push_back(value);
        }
      }
  }

  InferenceModel& model_;
  const LabelTokens& tokens_;
  std::vector<LabelLogProbabilities>& scores_;
  int64_t page_;  ///< tokens; 0: nothing is shared
  RowSums row_sums_;
  OpenSequences beginning_;
  std::span<const int32_t> common_;
};

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
  std::vector<Reading> readings;
  for (size_t context = 0; context < contexts.size(); ++context) {
    CBTM_ASSERT(!contexts[context].empty(), "a context has a token");
    for (Reading& reading : plan(context, contexts[context], tokens)) readings.push_back(std::move(reading));
  }
  Reader reader(model, tokens, scores);
  reader.hold_beginning(readings);
  size_t begin = 0;
  int64_t rows = 0;
  for (size_t i = 0; i <= readings.size(); ++i) {
    const bool full = i < readings.size() && rows > 0 && rows + reader.rows(readings[i]) > kPassRows;
    if (full || i == readings.size()) {
      stop_if_requested("few-shot scoring");
      if (i > begin) reader.read(std::span(readings).subspan(begin, i - begin));
      begin = i;
      rows = 0;
    }
    if (i < readings.size()) rows += reader.rows(readings[i]);
  }
  return scores;
}

}  // namespace cbtm
