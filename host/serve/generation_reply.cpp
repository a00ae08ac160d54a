#include "serve/generation_reply.h"

#include <algorithm>
#include <functional>

#include "cbtm/ensemble/coefficients.h"
#include "cbtm/run/run_directory.h"
#include "serve/token_text.h"

namespace cbtm {

/// A text so far. Of a stream, the lists hold what was not sent yet.
struct GenerationReply::Text {
  explicit Text(const Tokenizer& tokenizer) : decoder(tokenizer) {}
  std::string piece;
  StreamingDecoder decoder;    ///< of all tokens that have scores: finds the offsets
  int64_t known_tokens = 0;    ///< of the prompt
  double log_probability = 0;  ///< of all its tokens together
  int64_t token_count = 0;
  int64_t characters = 0;
  bool begun = false;
  bool sent = false;     ///< an event
  bool changed = false;  ///< since the last event
  std::string finish;
  // Of completions.
  Json tokens = Json::array(), log_probabilities = Json::array(), top = Json::array(), offsets = Json::array();
  Json chat_content = Json::array();  ///< the same for chats
  Json weights = Json::array();

  void clear() {
    piece.clear();
    for (Json* list : {&tokens, &log_probabilities, &top, &offsets, &chat_content, &weights}) *list = Json::array();
    changed = false;
  }
};

std::string dumped(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
std::string event_of(const Json& json) { return "data: " + dumped(json) + "\n\n"; }

GenerationReply::GenerationReply(GenerationRequestBody request, std::string id, int64_t created)
    : request_(std::move(request)), id_(std::move(id)), created_(created) {
  const Job& job = *request_.job;
  for (size_t i = 0; i < job.texts(); ++i) texts_.push_back(std::make_unique<Text>(job.catalog->tokenizer()));
}

GenerationReply::~GenerationReply() = default;

void GenerationReply::add(TextUpdate&& update) {
  Text& text = *texts_[update.text];
  if (!text.changed) changed_.push_back(update.text);
  text.changed = true;
  if (!text.begun) begin_text(text, update);
  text.known_tokens = std::max(text.known_tokens, update.known_tokens);
  add_tokens(text, update);
  text.piece += update.piece;
  if (!update.finish.empty()) {
    text.finish = update.finish;
    ++ended_;
    if (update.finish == "error" && error_.empty()) error_ = update.error;
  }
}

std::string GenerationReply::new_events() {
  std::string events;
  for (size_t i = 0; i < changed_.size(); ++i) {
    Text& text = *texts_[changed_[i]];
    Json sent = chunk(Json::array({choice(changed_[i], text, false)}));
    if (complete() && i + 1 == changed_.size()) sent["x_cbtm"] = mixing();
    events += event_of(sent);
    text.clear();
    text.sent = true;
  }
  changed_.clear();
  return events;
}

/// What is there before the first token that is generated: the role of a chat, or the prompt that is to be echoed.
void GenerationReply::begin_text(Text& text, TextUpdate& update) {
  text.begun = true;
  if (!request_.echo) return;
  const Tokenizer& tokenizer = request_.job->catalog->tokenizer();
  const std::vector<int32_t>& prompt = request_.job->prompt(update.text);
  text.piece += tokenizer.decode(prompt, /*skip_special=*/true);
  if (!update.prompt) return;
  add_scored(text, prompt.front(), nullptr);
  for (size_t t = 1; t < prompt.size(); ++t) add_scored(text, prompt[t], &update.prompt->tokens[t - 1]);
}

void GenerationReply::add_tokens(Text& text, TextUpdate& update) {
  completion_tokens_ += static_cast<int64_t>(update.ids.size());
  for (size_t t = 0; t < update.ids.size() && t < update.scores.size(); ++t) {
    add_scored(text, update.ids[t], &update.scores[t]);
    text.log_probability += static_cast<double>(update.scores[t].log_probability);
    ++text.token_count;
  }
  for (const std::vector<double>& of_token : update.weights) {
    expert_tokens_.resize(std::max(expert_tokens_.size(), of_token.size()));
    const std::optional<SequenceMixing>& mixing = request_.job->mixing;
    const std::vector<double> shares = mixing && !mixing->coefficients.empty() ? expert_shares(of_token) : of_token;
    for (size_t cluster = 0; cluster < shares.size(); ++cluster) expert_tokens_[cluster] += shares[cluster];
    if (!request_.weights) continue;
    Json weights = Json::object();
    for (size_t cluster = 0; cluster < of_token.size(); ++cluster)
      if (of_token[cluster] != 0)
        weights[RunDirectory::cluster_name(static_cast<int64_t>(cluster))] = of_token[cluster];
    const auto number = static_cast<size_t>(&of_token - update.weights.data());
    text.weights.push_back({{"token", token_text(request_.job->catalog->tokenizer(), update.ids[number])},
                            {"weights", std::move(weights)}});
  }
}

/// A token with its score; the first of a prompt has none.
void GenerationReply::add_scored(Text& text, int32_t id, const TokenScore* score) {
  const Tokenizer& tokenizer = request_.job->catalog->tokenizer();
  if (request_.chat) {
    Json top = Json::array();
    for (const auto& [other, value] : score->top)
      top.push_back({{"token", token_text(tokenizer, other)},
                     {"logprob", shown_log_probability(value)},
                     {"bytes", token_bytes(tokenizer, other)}});
    text.chat_content.push_back({{"token", token_text(tokenizer, id)},
                                 {"logprob", shown_log_probability(score->log_probability)},
                                 {"bytes", token_bytes(tokenizer, id)},
                                 {"top_logprobs", std::move(top)}});
    return;
  }
  text.tokens.push_back(token_text(tokenizer, id));
  text.offsets.push_back(text.characters);
  text.characters += count_characters(text.decoder.push(id));
  if (score == nullptr) {
    text.log_probabilities.push_back(nullptr);
    text.top.push_back(nullptr);
    return;
  }
  text.log_probabilities.push_back(shown_log_probability(score->log_probability));
  Json top = {{token_text(tokenizer, id), shown_log_probability(score->log_probability)}};
  for (const auto& [other, value] : score->top) top[token_text(tokenizer, other)] = shown_log_probability(value);
  text.top.push_back(std::move(top));
}

Json GenerationReply::chat_message(const Text& text, bool whole) const {
  Json message = {{"content", text.piece}};
  if (whole || !text.sent) message["role"] = "assistant";
  return message;
}

Json GenerationReply::choice(size_t number, const Text& text, bool whole) const {
  Json choice = {{"index", number}, {"finish_reason", text.finish.empty() ? Json() : Json(text.finish)}};
  Json logprobs;
  if (request_.log_probabilities && request_.chat)
    logprobs = {{"content", text.chat_content}, {"refusal", nullptr}};
  else if (request_.log_probabilities)
    logprobs = {{"tokens", text.tokens},
                {"token_logprobs", text.log_probabilities},
                {"top_logprobs", text.top},
                {"text_offset", text.offsets}};
  choice["logprobs"] = std::move(logprobs);
  if (request_.chat)
    choice[whole ? "message" : "delta"] = chat_message(text, whole);
  else
    choice["text"] = text.piece;
  if (request_.weights) choice["x_cbtm"] = {{"tokens", text.weights}};
  return choice;
}

Json GenerationReply::chunk(Json choices) const {
  const Job& job = *request_.job;
  const char* object = !request_.chat ? "text_completion" : job.stream ? "chat.completion.chunk" : "chat.completion";
  Json json = {{"id", id_},
               {"object", object},
               {"created", created_},
               {"model", job.model->id},
               {"choices", std::move(choices)}};
  if (job.stream && request_.include_usage) json["usage"] = nullptr;
  return json;
}

/// What the reply says beyond what OpenAI's does.
Json GenerationReply::mixing() const {
  Json json = {{"seed", request_.job->options.seed}};
  if (!expert_tokens_.empty()) {
    Json experts = Json::object();
    for (size_t cluster = 0; cluster < expert_tokens_.size(); ++cluster)
      if (expert_tokens_[cluster] > 0)
        experts[RunDirectory::cluster_name(static_cast<int64_t>(cluster))] = expert_tokens_[cluster];
    json["expert_tokens"] = std::move(experts);
  }
  if (!request_.ignored.empty()) json["ignored"] = request_.ignored;
  return json;
}

/// The texts of a prompt that the reply holds: all, or the best first. Of equals the first comes first.
std::vector<const GenerationReply::Text*> GenerationReply::chosen(size_t prompt) const {
  const auto copies = static_cast<size_t>(request_.job->copies);
  std::vector<const Text*> texts;
  for (size_t copy = 0; copy < copies; ++copy) texts.push_back(texts_[prompt * copies + copy].get());
  if (request_.choices == request_.job->copies) return texts;
  const auto mean = [](const Text* text) {
    return text->token_count == 0 ? 0 : text->log_probability / static_cast<double>(text->token_count);
  };
  std::ranges::stable_sort(texts, std::greater(), mean);
  texts.resize(static_cast<size_t>(request_.choices));
  return texts;
}

Json GenerationReply::whole() const {
  Json choices = Json::array();
  for (size_t prompt = 0; prompt < request_.job->prompts.size(); ++prompt)
    for (const Text* text : chosen(prompt)) choices.push_back(choice(choices.size(), *text, true));
  Json json = chunk(std::move(choices));
  json["usage"] = usage();
  json["x_cbtm"] = mixing();
  return json;
}

std::string GenerationReply::last_events() const {
  std::string events;
  if (request_.include_usage) {
    Json json = chunk(Json::array());
    json["usage"] = usage();
    events = event_of(json);
  }
  return events + "data: [DONE]\n\n";
}

int64_t GenerationReply::prompt_tokens() const {
  int64_t tokens = 0;
  for (const std::vector<int32_t>& prompt : request_.job->prompts) tokens += static_cast<int64_t>(prompt.size());
  return tokens;
}

/// Each prompt is counted once, however many texts continue it: as it was for the first of them.
Json GenerationReply::usage() const {
  int64_t known_tokens = 0;
  for (size_t text = 0; text < texts_.size(); text += static_cast<size_t>(request_.job->copies))
    known_tokens += texts_[text]->known_tokens;
  return {{"prompt_tokens", prompt_tokens()},
          {"completion_tokens", completion_tokens_},
          {"total_tokens", prompt_tokens() + completion_tokens_},
          {"prompt_tokens_details", {{"cached_tokens", known_tokens}}}};
}

std::string GenerationReply::finish() const {
  for (const auto& text : texts_)
    if (text->finish != texts_.front()->finish) return "mixed";
  return texts_.front()->finish;
}

}  // namespace cbtm
