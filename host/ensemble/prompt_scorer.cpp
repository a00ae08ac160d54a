#include "cbtm/ensemble/prompt_scorer.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"
#include "ensemble/routed_text.h"
#include "ensemble/sequence_caches.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "scores of prompts";
/// Rows of a pass over several prompts, about.
constexpr int64_t kPassRows = 4096;
/// Distributions that are mixed, and brought to the host, at a time.
constexpr int64_t kSliceRows = 64;

}  // namespace

struct PromptScorer::Prompt {
  GrowingSequence text;
  int64_t top = 0;
  SequenceMixing mixing;
  int64_t scored = 0;                        ///< rows: row n says what comes after n + 1 tokens
  std::vector<std::vector<double>> weights;  ///< by row and cluster; for one model {1} in each
  PromptScores scores;

  int64_t length() const { return text.length(); }
  int64_t unit_end() const { return cbtm::unit_end(text, scored); }
  /// The models that the next unit needs.
  std::vector<int64_t> models() const {
    std::vector<int64_t> models;
    for (size_t cluster = 0; cluster < weights.back().size(); ++cluster)
      for (int64_t row = scored; row < unit_end(); ++row)
        if (weights[static_cast<size_t>(row)][cluster] != 0) {
          models.push_back(static_cast<int64_t>(cluster));
          break;
        }
    return models;
  }
};

/// Rows of one prompt whose distributions are looked at together.
struct PromptScorer::Slice {
  Prompt& prompt;
  int64_t begin, end;
};

PromptScorer::PromptScorer(std::shared_ptr<ExpertPool> pool, SequenceMixing mixing)
    : device_(pool->device()), pool_(std::move(pool)), mixing_(std::move(mixing)) {}
PromptScorer::PromptScorer(InferenceModel& model) : device_(model.device()), model_(&model) {}
PromptScorer::~PromptScorer() { close_all(); }

InferenceModel& PromptScorer::model(int64_t cluster) { return pool_ != nullptr ? pool_->model(cluster) : *model_; }

int64_t PromptScorer::add(std::vector<int32_t> ids, int64_t top, const std::optional<SequenceMixing>& mixing) {
  CBTM_ASSERT(!ids.empty(), "a prompt has a token");
  auto prompt = std::make_unique<Prompt>();
  prompt->text.prompt_length = static_cast<int64_t>(ids.size());
  prompt->text.ids = std::move(ids);
  prompt->top = top;
  prompt->mixing = mixing ? *mixing : mixing_;
  weigh(*prompt);
  prompts_.emplace(next_, std::move(prompt));
  waiting_.push_back(next_);
  return next_++;
}

/// The weights of every row, from the text before it.
void PromptScorer::weigh(Prompt& prompt) {
  if (pool_ == nullptr) {
    prompt.weights.assign(static_cast<size_t>(prompt.length()), {1.0});
    return;
  }
  if (!prompt.mixing.coefficients.empty()) {
    prompt.weights.assign(static_cast<size_t>(prompt.length()), prompt.mixing.coefficients);
    return;
  }
  const ExpertSet& experts = pool_->experts();
  const std::unique_ptr<RoutingContext> context = experts.router().context();
  int64_t read = 0;
  std::vector<double> weights(static_cast<size_t>(experts.router().clusters()));
  for (int64_t row = 0; row < prompt.length(); ++row) {
    const int64_t wanted = routed_tokens(prompt.mixing.routing, row + 1, prompt.length());
    const bool more = read < wanted || row == 0;
    for (; read < wanted; ++read)
      append_token(experts.tokenizer(), prompt.text.ids[static_cast<size_t>(read)], *context);
    if (more) context->weights(prompt.mixing.mixture, prompt.mixing.present, weights);
    prompt.weights.push_back(weights);
  }
}

std::vector<int64_t> PromptScorer::choose_prompts(int64_t rows) const {
  std::vector<int64_t> chosen;
  for (const int64_t number : waiting_) {
    if (rows <= 0) break;
    const Prompt& prompt = *prompts_.at(number);
    rows -= prompt.unit_end() - prompt.scored;
    chosen.push_back(number);
  }
  return chosen;
}

std::vector<int64_t> PromptScorer::step(int64_t rows) {
  struct Stepping {
    bool& flag;
    explicit Stepping(bool& of) : flag(of) { flag = true; }
    ~Stepping() { flag = false; }
  } const stepping(stepping_);
  std::vector<int64_t> chosen = choose_prompts(rows);
  for (;;) {
    try {
      reserve(chosen);
      break;
    } catch (const CacheFull&) {
      if (chosen.size() == 1 && !close_all()) throw;
      if (chosen.size() > 1) chosen.resize(1);
    }
  }
  read(chosen);
  std::vector<int64_t> ended;
  for (const int64_t number : chosen) {
    const Prompt& prompt = *prompts_.at(number);
    if (prompt.scored < prompt.length()) continue;
    close(number);
    std::erase(waiting_, number);
    ended.push_back(number);
  }
  return ended;
}

/// Makes room in the caches for the next unit of these prompts.
void PromptScorer::reserve(const std::vector<int64_t>& prompts) {
  for (const int64_t number : prompts) {
    const Prompt& prompt = *prompts_.at(number);
    for (const int64_t cluster : prompt.models()) {
      InferenceModel& used = model(cluster);
      const auto [handle, fresh] = handles_[cluster].try_emplace(number, 0);
      if (fresh) handle->second = used.open_sequence();
      // What is scored is read here; what lies before it others may have read.
      if (const int64_t unit = shared_unit(used); unit > 0)
        used.begin_prompt(handle->second, std::span(prompt.text.ids).first(static_cast<size_t>(prompt.scored)), unit);
      used.reserve(handle->second, prompt.unit_end());
    }
  }
}

/// Reads the next unit of these prompts with the models that need it, and keeps the scores.
void PromptScorer::read(const std::vector<int64_t>& numbers) {
  for (const int64_t number : numbers) {  // of a step that has failed something may be there
    Prompt& prompt = *prompts_.at(number);
    prompt.scores.tokens.resize(static_cast<size_t>(prompt.scored));
    if (pool_ != nullptr) prompt.scores.weights.resize(static_cast<size_t>(prompt.scored));
  }
  std::map<int64_t, std::vector<int64_t>> readers;  // prompts by cluster
  for (const int64_t number : numbers)
    for (const int64_t cluster : prompts_.at(number)->models()) readers[cluster].push_back(number);
  std::map<int64_t, ConstTensorView> logits;              // by cluster
  std::map<std::pair<int64_t, int64_t>, int64_t> row_of;  // by cluster and prompt: the row of its unit's first token
  const auto read_with = [&](int64_t cluster, InferenceModel& used) {
    std::vector<std::vector<std::pair<int64_t, int64_t>>> rounds;  // prompts and where their units begin
    std::vector<int64_t> decoded;
    for (const int64_t number : readers.at(cluster)) {
      const Prompt& prompt = *prompts_.at(number);
      size_t round = 0;
      for (int64_t begin = used.sequence_length(handles_.at(cluster).at(number)); begin < prompt.unit_end();) {
        const int64_t end = unit_end(prompt.text, begin);
        if (unit_is_decoded(prompt.text, begin)) {
          decoded.push_back(number);
        } else {
          rounds.resize(std::max(rounds.size(), ++round));
          rounds[round - 1].emplace_back(number, begin);
        }
        begin = end;
      }
    }
    std::vector<ReadPass> passes;
    int64_t row = 0;
    const auto add = [&](int64_t number, int64_t begin) {
      const Prompt& prompt = *prompts_.at(number);
      const auto ids =
          std::span(prompt.text.ids)
              .subspan(static_cast<size_t>(begin), static_cast<size_t>(unit_end(prompt.text, begin) - begin));
      const int64_t handle = handles_.at(cluster).at(number);
      if (begin < prompt.scored) return passes.back().add(handle, ids, false);
      passes.back().add_scored(handle, ids);
      row_of[{cluster, number}] = row;
      row += static_cast<int64_t>(ids.size());
    };
    for (const auto& round : rounds) {
      int64_t pass_rows = kPassRows;
      for (const auto& [number, begin] : round) {
        const int64_t rows = unit_end(prompts_.at(number)->text, begin) - begin;
        pass_rows += rows;
        if (pass_rows > kPassRows || !used.prompts_share_passes()) {
          passes.push_back({.row_sums = RowSums::prompt});
          pass_rows = rows;
        }
        add(number, begin);
      }
    }
    if (!decoded.empty()) passes.push_back({.row_sums = RowSums::decode});
    for (const int64_t number : decoded) add(number, prompts_.at(number)->scored);
    logits[cluster] = used.read(passes);
    if (const int64_t shared = shared_unit(used); shared > 0)
      for (const int64_t number : readers.at(cluster)) {
        const Prompt& prompt = *prompts_.at(number);
        used.share_prompt(handles_.at(cluster).at(number),
                          std::span(prompt.text.ids).first(static_cast<size_t>(prompt.unit_end())), shared);
      }
  };
  std::vector<int64_t> clusters;
  for (const auto& [cluster, of] : readers) clusters.push_back(cluster);
  try {
    if (pool_ != nullptr)
      pool_->for_each(clusters, read_with);
    else
      read_with(0, *model_);
  } catch (...) {  // which of the tokens have been read is not known
    close_all();
    throw;
  }

  std::vector<float> scores;
  for (const int64_t number : numbers) {
    Prompt& prompt = *prompts_.at(number);
    const int64_t first = prompt.scored, unit = prompt.unit_end();
    for (int64_t begin = first; begin < unit; begin += kSliceRows) {
      const int64_t end = std::min(begin + kSliceRows, unit), rows = end - begin;
      const int64_t vocab = model(readers.begin()->first).vocab_size();
      scores.resize(static_cast<size_t>(rows * vocab));
      ConstTensorView source;
      if (pool_ == nullptr) {
        source = logits.at(0).row_range(row_of.at({0, number}) + begin - first, rows);
      } else {
        std::vector<ConstTensorView> used;
        std::vector<int64_t> used_clusters;
        for (const auto& [cluster, view] : logits)
          if (const auto at = row_of.find({cluster, number}); at != row_of.end()) {
            used.push_back(view.row_range(at->second + begin - first, rows));
            used_clusters.push_back(cluster);
          }
        std::vector<float> weights;
        for (int64_t row = begin; row < end; ++row)
          for (const int64_t cluster : used_clusters)
            weights.push_back(
                static_cast<float>(prompt.weights[static_cast<size_t>(row)][static_cast<size_t>(cluster)]));
        const auto bytes = static_cast<int64_t>(weights.size()) * 4;
        if (weights_.bytes() < bytes) weights_ = device_.allocate(bytes, kPurpose);
        if (mixed_.bytes() < rows * vocab * 4) mixed_ = device_.allocate(rows * vocab * 4, kPurpose);
        device_.copy_to_device(weights_.data(), weights.data(), bytes);
        const TensorView out = mixed_.view(DType::f32, rows, vocab);
        device_.model_operators().mixture_log_probabilities(
            {.logits = used,
             .weights = weights_.view(DType::f32, rows, static_cast<int64_t>(used.size())),
             .log_probabilities = out,
             .rows = {},
             .kind = prompt.mixing.kind()});
        source = out;
      }
      device_.copy_to_host(scores.data(), source.data, rows * vocab * 4);
      keep_scores({prompt, begin, end}, scores);
    }
    prompt.scored = unit;
  }
}

void PromptScorer::keep_scores(const Slice& slice, std::span<float> scores) {
  Prompt& prompt = slice.prompt;
  const size_t vocab = scores.size() / static_cast<size_t>(slice.end - slice.begin);
  for (int64_t row = slice.begin; row < slice.end; ++row) {
    const std::span<float> here = scores.subspan(static_cast<size_t>(row - slice.begin) * vocab, vocab);
    const bool last = row + 1 == prompt.length();
    if (last) prompt.scores.next_scores.assign(here.begin(), here.end());
    if (pool_ == nullptr) to_log_probabilities(here);
    most_likely_token(here);  // throws if they are no numbers
    if (last)
      prompt.scores.next_log_probabilities.assign(here.begin(), here.end());
    else
      prompt.scores.tokens.push_back(token_score(here, prompt.text.ids[static_cast<size_t>(row) + 1], prompt.top));
    if (pool_ != nullptr) prompt.scores.weights.push_back(prompt.weights[static_cast<size_t>(row)]);
  }
}

PromptScores PromptScorer::remove(int64_t number) {
  const auto found = prompts_.find(number);
  CBTM_ASSERT(found != prompts_.end(), "a prompt is removed once");
  close(number);
  std::erase(waiting_, number);
  PromptScores scores = std::move(found->second->scores);
  prompts_.erase(found);
  return scores;
}

void PromptScorer::close(int64_t number) {
  for (auto& [cluster, handles] : handles_) {
    const auto found = handles.find(number);
    if (found == handles.end()) continue;
    model(cluster).close_sequence(found->second);
    handles.erase(found);
  }
}

bool PromptScorer::close_all() {
  bool any = false;
  for (auto& [cluster, handles] : handles_) {
    for (const auto& [number, handle] : handles) {
      any = any || model(cluster).sequence_length(handle) > 0;
      model(cluster).close_sequence(handle);
    }
    handles.clear();
  }
  return any;
}

}  // namespace cbtm
