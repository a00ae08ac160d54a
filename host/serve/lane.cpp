#include "serve/lane.h"

#include "cbtm/base/error.h"
#include "cbtm/device/device_error.h"
#include "cbtm/ensemble/coefficients.h"
#include "cbtm/model/sampling.h"

namespace cbtm {
namespace {

/// Tokens of prompts that one step scores, about.
constexpr int64_t kScoredRows = 512;

double seconds_between(Job::Clock::time_point from, Job::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void count_memory(const ModelMemory& memory, ServeMetrics& metrics) {
  const ModelMemoryStatistics now = memory.statistics();
  metrics.weight_loads = now.loads;
  metrics.prompt_cache_evictions = now.prompt_cache.evictions;
  metrics.prompt_cache_pages = now.prompt_cache.pages;
  metrics.prompt_cache_bytes = now.prompt_cache.bytes;
  metrics.memory_bytes = now.bytes;
}

Lane::Lane(Device& device, std::shared_ptr<const Catalog> catalog, const ServedModel& model, WeightFormat weights,
           std::shared_ptr<ModelMemory> memory, ServeMetrics& metrics, const Lane* before)
    : catalog_(std::move(catalog)), model_(&model), metrics_(metrics), memory_(std::move(memory)) {
  if (model.kind == ServedModel::Kind::single) {
    std::unique_ptr<InferenceModel> loaded = InferenceModel::load(device, model.directory, weights, memory_);
    loaded->need_now();
    InferenceModel& shared = *loaded;
    scorer_ = model_scorer(std::move(loaded));
    prompt_scorer_ = std::make_unique<PromptScorer>(shared);
  } else {
    pool_ = std::make_shared<ExpertPool>(device, *catalog_->experts(), memory_,
                                         before != nullptr ? before->pool_.get() : nullptr);
    scorer_ = ensemble_scorer(pool_, catalog_->mixing().mixture, catalog_->mixing().routing);
    prompt_scorer_ = std::make_unique<PromptScorer>(pool_, catalog_->mixing());
    // All experts are brought to the device now, as far as they fit: the first requests need not wait for it, and the
    // files may be replaced.
    std::vector<int64_t> clusters;
    for (const Expert& expert : catalog_->experts()->experts()) clusters.push_back(expert.cluster);
    pool_->for_each(clusters, [](int64_t, InferenceModel&) {});
    scorer_->set_reclaim([this] { return prompt_scorer_->drop_caches(); });
  }
  // Pieces that a device reads at full speed, and no more: texts that run wait for them.
  session_ = std::make_unique<Session>(*scorer_, &catalog_->tokenizer(),
                                       SessionOptions{.prompt_rows = device.micro_batch_rows() / 8});
}

bool Lane::serves(const Job& job) const {
  if (job.catalog != catalog_) return false;
  return model_->kind == ServedModel::Kind::single ? job.model == model_ : job.model->kind != ServedModel::Kind::single;
}

bool Lane::uses(const Job& job) const {
  for (const auto* texts : {&texts_, &scored_})
    for (const auto& [number, text] : *texts)
      if (text->job.get() == &job) return true;
  return false;
}

std::unique_ptr<Lane::Text> Lane::new_text(const std::shared_ptr<Job>& job, size_t number) const {
  auto text = std::make_unique<Text>();
  text->job = job;
  text->number = number;
  text->started = text->last_token = Job::Clock::now();
  return text;
}

void Lane::start(const std::shared_ptr<Job>& job, size_t number) {
  std::unique_ptr<Text> text = new_text(job, number);
  if (!job->score_prompts) return generate(std::move(text));
  text->scored = true;
  const int64_t scored = prompt_scorer_->add(job->prompt(number), job->options.top_scores, job->mixing);
  scored_.emplace(scored, std::move(text));
}

void Lane::generate(std::unique_ptr<Text> text) {
  Text* const here = text.get();
  GenerationRequest request{.prompt = text->job->prompt(text->number),
                            .mixing = text->job->mixing,
                            .options = text->job->options,
                            .random_stream = text->number,
                            .on_text = [here](const std::string& piece) { here->piece += piece; }};
  texts_.emplace(session_->add(std::move(request)), std::move(text));
}

void Lane::step() {
  if (!prompt_scorer_->idle()) score_prompts();
  if (!session_->idle()) {
    const std::vector<int64_t> ended = session_->step();
    ++metrics_.steps;
    count_memory(*memory_, metrics_);  // before anybody has an answer
    for (const auto& [number, text] : texts_)
      if (std::find(ended.begin(), ended.end(), number) == ended.end()) give(*text, session_->so_far(number), false);
    for (const int64_t number : ended) {
      const std::unique_ptr<Text> text = std::move(texts_.at(number));
      texts_.erase(number);
      give(*text, session_->remove(number), true);
    }
  }
  metrics_.evictions += session_->evictions() - evictions_;
  evictions_ = session_->evictions();
}

/// Gives a text's job what is new of it.
void Lane::give(Text& text, const Generated& so_far, bool ended) {
  const size_t tokens = so_far.ids.size() + (so_far.end_token >= 0 ? 1 : 0);
  const size_t begin = text.given;
  const auto place = [](size_t at) { return static_cast<std::ptrdiff_t>(at); };
  const size_t weighed = std::min(begin, so_far.weights.size());
  const int64_t known_tokens = text.scored ? 0 : so_far.known_tokens;
  if (tokens > begin && begin == 0) metrics_.known_prompt_tokens += known_tokens;
  if (tokens > begin) count(text, tokens - begin, {so_far.weights.begin() + place(weighed), so_far.weights.end()});
  text.given = tokens;
  if (!ended && !text.job->stream) return;
  const size_t first = text.job->stream ? begin : 0;
  TextUpdate update{.text = text.number, .piece = std::exchange(text.piece, {}), .known_tokens = known_tokens};
  if (first < so_far.ids.size()) update.ids.assign(so_far.ids.begin() + place(first), so_far.ids.end());
  if (so_far.end_token >= 0 && first < tokens) update.ids.push_back(so_far.end_token);
  if (first < so_far.scores.size()) update.scores.assign(so_far.scores.begin() + place(first), so_far.scores.end());
  if (first < so_far.weights.size()) update.weights.assign(so_far.weights.begin() + place(first), so_far.weights.end());
  if (ended) {
    update.finish = so_far.finish == "eos" ? "stop" : so_far.finish == "removed" ? "abort" : so_far.finish;
    update.error = so_far.error;
  }
  if (ended || !update.ids.empty() || !update.piece.empty()) text.job->on_update(std::move(update));
}

void Lane::count(Text& text, size_t tokens, const std::vector<std::vector<double>>& weights) {
  const Job::Clock::time_point now = Job::Clock::now();
  if (text.given == 0) {
    metrics_.prompt_tokens += static_cast<int64_t>(text.job->prompt(text.number).size());
    metrics_.prompt_seconds += seconds_between(text.started, now);
    metrics_.first_token.observe(seconds_between(text.job->arrived, now));
  } else {
    metrics_.generation_seconds += seconds_between(text.last_token, now);
    metrics_.between_tokens.observe(seconds_between(text.last_token, now));
  }
  text.last_token = now;
  metrics_.generated_tokens += static_cast<int64_t>(tokens);
  const bool signed_weights = text.job->mixing && !text.job->mixing->coefficients.empty();
  for (const std::vector<double>& of_token : weights)
    metrics_.count_experts(signed_weights ? expert_shares(of_token) : of_token);
}

void Lane::score_prompts() {
  try {
    for (const int64_t number : prompt_scorer_->step(kScoredRows)) prompt_scored(number);
  } catch (const CacheFull& full) {
    if (session_->idle()) first_prompt_failed(full.what());  // else their caches will be free later
  } catch (const DeviceError&) {                             // no prompt is to blame
    throw;
  } catch (const std::exception&) {
    score_first_prompt();
  }
}

/// After a step that has failed: the first prompt alone. If that fails, too, it is to blame; else the others have their
/// turn later.
void Lane::score_first_prompt() {
  prompt_scorer_->drop_caches();
  try {
    for (const int64_t number : prompt_scorer_->step(1)) prompt_scored(number);
  } catch (const DeviceError&) {
    throw;
  } catch (const std::exception& error) {
    prompt_scorer_->drop_caches();
    first_prompt_failed(error.what());
  }
}

void Lane::first_prompt_failed(const std::string& error) {
  const int64_t first = prompt_scorer_->first();
  const std::unique_ptr<Text> text = std::move(scored_.at(first));
  scored_.erase(first);
  prompt_scorer_->remove(first);
  text->job->on_update({.text = text->number, .finish = "error", .error = error});
}

/// A prompt has been scored: its text ends with it, or goes on.
void Lane::prompt_scored(int64_t number) {
  std::unique_ptr<Text> text = std::move(scored_.at(number));
  scored_.erase(number);
  TextUpdate update{.text = text->number, .prompt = prompt_scorer_->remove(number)};
  const GenerationOptions& options = text->job->options;
  const auto length = static_cast<int64_t>(text->job->prompt(text->number).size());
  if (options.new_tokens_max <= 0 || length >= scorer_->max_length()) {
    metrics_.prompt_tokens += length;
    metrics_.prompt_seconds += seconds_between(text->started, Job::Clock::now());
    update.finish = "length";
  } else if (options.new_tokens_max == 1 && options.stop.empty()) {
    choose_one(*text, update);
  }
  const bool goes_on = update.finish.empty();
  text->job->on_update(std::move(update));
  if (goes_on) generate(std::move(text));
}

/// The one token that is wanted follows from the scores of the prompt: the same as a session would choose.
void Lane::choose_one(Text& text, TextUpdate& update) {
  const GenerationOptions& options = text.job->options;
  PromptScores& scores = *update.prompt;
  const std::vector<int32_t>& prompt = text.job->prompt(text.number);
  PhiloxStream random(options.seed, text.number);
  const int32_t id = choose_token(scores.next_scores, prompt, options.sampling, random, prompt.size());
  update.scores.push_back(token_score(scores.next_log_probabilities, id, options.top_scores));
  update.ids.push_back(id);
  const bool ends =
      !options.ignore_eos && std::find(options.eos_ids.begin(), options.eos_ids.end(), id) != options.eos_ids.end();
  update.finish = ends ? "stop" : "length";
  if (!ends) {
    StreamingDecoder decoder(catalog_->tokenizer());
    update.piece = decoder.push(id) + decoder.finish();
    if (!scores.weights.empty()) update.weights.push_back(scores.weights.back());
  }
  count(text, 1, update.weights);
}

void Lane::remove_cancelled() {
  std::erase_if(texts_, [&](const auto& entry) {
    if (!entry.second->job->cancelled) return false;
    session_->remove(entry.first);
    return true;
  });
  std::erase_if(scored_, [&](const auto& entry) {
    if (!entry.second->job->cancelled) return false;
    prompt_scorer_->remove(entry.first);
    return true;
  });
}

void Lane::end_all(const std::string& finish, const std::string& error) {
  for (const auto& [number, text] : scored_) {
    prompt_scorer_->remove(number);
    text->job->on_update({.text = text->number, .finish = finish, .error = error});
  }
  scored_.clear();
  for (const auto& [number, text] : texts_) {
    if (error.empty()) {
      give(*text, session_->remove(number), true);
    } else {
      text->job->on_update({.text = text->number, .finish = finish, .error = error});
    }
  }
  texts_.clear();
}

}  // namespace cbtm
