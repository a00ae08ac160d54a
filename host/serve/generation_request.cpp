#include "serve/generation_request.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "serve/api_error.h"
#include "serve/mixing_request.h"

namespace cbtm {
namespace {

constexpr size_t kPromptsMax = 1024;
constexpr int64_t kCopiesMax = 128;
constexpr int64_t kTopScoresMax = 100;
constexpr size_t kStopsMax = 64;
constexpr size_t kTextsMax = 4096;
/// Log-probabilities in a reply, which holds all of them until its end.
constexpr int64_t kScoresMax = int64_t{1} << 21;
constexpr double kTemperatureMin = 1e-4;
constexpr int64_t kCompletionTokens = 16;  ///< where a completion does not say how many

/// Fields that are read somewhere below, or that change nothing.
const std::set<std::string, std::less<>> kKnown = {"model",
                                                   "prompt",
                                                   "messages",
                                                   "max_tokens",
                                                   "max_completion_tokens",
                                                   "temperature",
                                                   "top_p",
                                                   "top_k",
                                                   "n",
                                                   "best_of",
                                                   "stream",
                                                   "stream_options",
                                                   "logprobs",
                                                   "top_logprobs",
                                                   "echo",
                                                   "stop",
                                                   "seed",
                                                   "presence_penalty",
                                                   "frequency_penalty",
                                                   "repetition_penalty",
                                                   "logit_bias",
                                                   "ignore_eos",
                                                   "add_special_tokens",
                                                   "x_cbtm",
                                                   "user",
                                                   "do_sample"};

/// Fields of other servers that would change the result and are not built: refused, unless they are set to what has no
/// effect.
struct Refused {
  const char* name;
  const char* harmless;  ///< as JSON
};
constexpr Refused kRefused[] = {
    {"suffix", "\"\""},       {"tools", "[]"},           {"functions", "[]"},          {"tool_choice", "\"none\""},
    {"min_p", "0"},           {"typical_p", "1"},        {"min_tokens", "0"},          {"use_beam_search", "false"},
    {"num_beams", "1"},       {"length_penalty", "1"},   {"grammar", "\"\""},          {"guided_json", "null"},
    {"guided_regex", "\"\""}, {"guided_choice", "null"}, {"json_schema", "{}"},        {"prompt_logprobs", "null"},
    {"stop_token_ids", "[]"}, {"bad_words", "[]"},       {"allowed_token_ids", "null"}};

void refuse_unbuilt(const JsonReader& body) {
  for (const Refused& field : kRefused) {
    if (!body.has(field.name)) continue;
    const Json& value = body.at(field.name).json();
    const Json harmless = Json::parse(field.harmless);
    if (value == harmless) continue;
    refuse(422, "'{}' is not supported by this server; leave it out", field.name);
  }
  if (body.has("response_format") && body.object("response_format").text_or("type", "text") != "text")
    refuse(422, "'response_format' other than text is not supported by this server");
}

void read_sampling(const JsonReader& body, const Catalog& catalog, GenerationOptions& options) {
  SamplingOptions& sampling = options.sampling;
  const double temperature = body.number_or("temperature", 1, 0, 1e4);
  sampling.greedy = temperature == 0 || !body.truth_or("do_sample", true);
  if (temperature > 0 && temperature < kTemperatureMin)
    refuse(400, "'temperature' must be 0, for the most likely token, or at least {}", kTemperatureMin);
  sampling.filter.temperature = sampling.greedy ? 1 : temperature;
  sampling.filter.top_p = body.number_or("top_p", 1, 1e-9, 1);
  sampling.filter.top_k = std::max<int64_t>(0, body.integer_or("top_k", 0, -1));
  sampling.repetition_penalty = body.number_or("repetition_penalty", 1, 1e-3, 1e3);
  sampling.presence_penalty = body.number_or("presence_penalty", 0, -100, 100);
  sampling.frequency_penalty = body.number_or("frequency_penalty", 0, -100, 100);
  if (body.has("logit_bias")) {
    const JsonReader biases = body.object("logit_bias");
    for (const std::string& key : biases.keys()) {
      const std::optional<uint64_t> id = parse_unsigned(key);
      if (!id || *id >= static_cast<uint64_t>(catalog.vocab_size()))
        refuse(400, "'logit_bias': {} is no token id below {}", Json(key).dump(), catalog.vocab_size());
      sampling.bias.emplace_back(static_cast<int32_t>(*id), static_cast<float>(biases.number(key, -100, 100)));
    }
  }
  options.ignore_eos = body.truth_or("ignore_eos", false);
  options.eos_ids = catalog.end_tokens();
  options.seed = body.has("seed") ? static_cast<uint64_t>(body.integer("seed", INT64_MIN)) : std::random_device{}();
}

void read_stop(const JsonReader& body, GenerationOptions& options) {
  if (!body.has("stop")) return;
  const JsonReader stop = body.at("stop");
  options.stop = stop.json().is_string() ? std::vector<std::string>{stop.as_text()} : stop.as_texts();
  if (options.stop.size() > kStopsMax) refuse(400, "'stop' holds more than {} strings", kStopsMax);
  std::erase(options.stop, "");
}

std::vector<int32_t> prompt_ids(const JsonReader& list, const Catalog& catalog) {
  std::vector<int32_t> ids;
  for (const int64_t id : list.as_integers()) {
    if (id < 0 || id >= catalog.vocab_size())
      refuse(400, "'prompt' holds token id {}, outside the vocabulary of {}", id, catalog.vocab_size());
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

std::vector<std::vector<int32_t>> read_prompts(const JsonReader& body, const Catalog& catalog) {
  const bool add_special = body.truth_or("add_special_tokens", true);
  const auto encoded = [&](const std::string& text) {
    return catalog.tokenizer().encode(text, {.add_bos = add_special, .special_tokens = true});
  };
  if (!body.has("prompt")) refuse(400, "'prompt' is missing: a text, token ids, or a list of one of these");
  const JsonReader prompt = body.at("prompt");
  if (prompt.json().is_string()) return {encoded(prompt.as_text())};
  if (!prompt.json().is_array()) refuse(400, "'prompt' must be a text, token ids, or a list of one of these");
  if (prompt.size() > 0 && prompt.json()[0].is_number()) return {prompt_ids(prompt, catalog)};
  if (prompt.size() == 0 || prompt.size() > kPromptsMax)
    refuse(400, "'prompt' must hold between 1 and {} prompts", kPromptsMax);
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < prompt.size(); ++i) {
    const JsonReader one = prompt.item(i);
    prompts.push_back(one.json().is_string() ? encoded(one.as_text()) : prompt_ids(one, catalog));
  }
  return prompts;
}

/// The text of a message: a string, or a list of parts that are texts.
std::string message_text(const JsonReader& message) {
  if (!message.has("content")) return "";
  const JsonReader content = message.at("content");
  if (content.json().is_string()) return content.as_text();
  std::string text;
  for (size_t i = 0; i < content.as_list().size(); ++i) {
    const JsonReader part = content.item(i);
    if (part.text_or("type", "text") != "text") refuse(422, "messages may hold only text, not {}", part.text("type"));
    text += part.text("text");
  }
  return text;
}

std::vector<int32_t> read_messages(const JsonReader& body, const Catalog& catalog, const ChatTemplate& chat) {
  if (!body.has("messages")) refuse(400, "'messages' is missing: a list of {{\"role\", \"content\"}}");
  const JsonReader messages = body.list("messages");
  if (messages.size() == 0) refuse(400, "'messages' is empty");
  std::vector<std::pair<std::string, std::string>> list;
  for (size_t i = 0; i < messages.size(); ++i) {
    const JsonReader message = messages.item(i);
    list.emplace_back(message.text("role"), message_text(message));
  }
  return catalog.tokenizer().encode(chat.apply(list), {.add_bos = true, .special_tokens = false});
}

/// How many tokens to generate, and whether the prompts leave room for them.
void set_lengths(const JsonReader& body, bool chat, const RequestRules& rules, Job& job) {
  const int64_t room = job.catalog->max_length();
  const char* name = body.has("max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
  int64_t tokens = body.integer_or(name, chat ? room : kCompletionTokens, 0);
  if (rules.tokens_max > 0) tokens = std::min(tokens, rules.tokens_max);
  job.options.new_tokens_max = std::min(tokens, room);
  for (const std::vector<int32_t>& prompt : job.prompts) {
    if (prompt.empty()) refuse(400, "a prompt is empty; give it at least one token");
    const auto length = static_cast<int64_t>(prompt.size());
    if (length > room || (length == room && !(job.score_prompts && tokens == 0)))
      refuse(400, "the prompt has {} tokens, and this model reads texts of {}; shorten it", length, room);
  }
}

/// A reply must fit into memory, which is not that of --memory.
void check_scores(const GenerationRequestBody& request) {
  if (!request.log_probabilities) return;
  const Job& job = *request.job;
  int64_t tokens = 0;
  for (const std::vector<int32_t>& prompt : job.prompts) {
    const auto length = static_cast<int64_t>(prompt.size());
    tokens += job.copies * std::min(job.options.new_tokens_max, job.catalog->max_length() - length);
    if (job.score_prompts) tokens += length;
  }
  const int64_t scores = tokens * (job.options.top_scores + 1);
  if (scores > kScoresMax)
    refuse(400,
           "the reply would hold up to {} log-probabilities, more than {}; ask for fewer texts, tokens or 'logprobs'",
           scores, kScoresMax);
}

void read_log_probabilities(const JsonReader& body, GenerationRequestBody& request) {
  GenerationOptions& options = request.job->options;
  if (request.chat) {
    request.log_probabilities = body.truth_or("logprobs", false);
    const int64_t top = body.integer_or("top_logprobs", 0, 0, kTopScoresMax);
    if (body.has("top_logprobs") && !request.log_probabilities)
      refuse(400, "'top_logprobs' needs 'logprobs' to be true");
    if (request.log_probabilities) options.top_scores = top;
    return;
  }
  if (!body.has("logprobs")) return;
  const JsonReader logprobs = body.at("logprobs");
  if (logprobs.json().is_boolean()) {
    if (!logprobs.as_truth()) return;
    options.top_scores = 1;
  } else {
    options.top_scores = logprobs.as_integer(0, kTopScoresMax);
  }
  request.log_probabilities = true;
}

GenerationRequestBody read_checked(const JsonReader& body, bool chat, const std::shared_ptr<const Catalog>& catalog,
                                   const RequestRules& rules) {
  GenerationRequestBody request{.job = std::make_shared<Job>(), .chat = chat};
  Job& job = *request.job;
  job.catalog = catalog;
  for (const std::string& key : body.keys())
    if (body.has(key) && !kKnown.contains(key) && key != "response_format" &&
        std::none_of(std::begin(kRefused), std::end(kRefused), [&](const Refused& field) { return key == field.name; }))
      request.ignored.push_back(key);
  refuse_unbuilt(body);
  const std::string name = body.text_or("model", catalog->models().front().id);
  job.model = catalog->find(name);
  if (job.model == nullptr) refuse(404, "there is no model '{}'; GET /v1/models lists them", name);
  request.weights = read_mixing(body, *catalog, *job.model, job.mixing);
  read_sampling(body, *catalog, job.options);
  read_stop(body, job.options);
  request.choices = body.integer_or("n", 1, 1, kCopiesMax);
  job.copies = body.integer_or("best_of", request.choices, 1, kCopiesMax);
  job.stream = body.truth_or("stream", false);
  if (job.copies < request.choices)
    refuse(400, "'best_of' is {}, and 'n' asks for {} of these; ask for fewer", job.copies, request.choices);
  if (job.copies > request.choices && job.stream)
    refuse(400, "'best_of' needs all texts before it knows the best, so it cannot be streamed");
  if (body.has("stream_options")) {
    if (!job.stream) refuse(400, "'stream_options' needs 'stream' to be true");
    request.include_usage = body.object("stream_options").truth_or("include_usage", false);
  }
  read_log_probabilities(body, request);
  if (job.copies > request.choices) job.options.top_scores = std::max<int64_t>(0, job.options.top_scores);
  request.echo = body.truth_or("echo", false);
  if (chat && request.echo) refuse(422, "'echo' is of completions, not of chats");
  job.score_prompts = request.echo && request.log_probabilities;
  if (chat) {
    job.prompts = {read_messages(body, *catalog, *rules.chat_template)};
    job.options.stop.push_back(rules.chat_template->stop());
  } else {
    job.prompts = read_prompts(body, *catalog);
  }
  if (job.texts() > kTextsMax) refuse(400, "{} texts in one request are more than {}", job.texts(), kTextsMax);
  set_lengths(body, chat, rules, job);
  check_scores(request);
  return request;
}

}  // namespace

Json parse_body(const std::string& body) {
  if (body.empty()) refuse(400, "the request has no body; send JSON");
  try {
    Json json = parse_json(body, "the request's body", {.depth = 32, .memory_bytes = int64_t{1} << 29});
    if (!json.is_object()) refuse(400, "the request's body must be a JSON object");
    return json;
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
}

GenerationRequestBody read_generation_request(const std::string& body, bool chat,
                                              const std::shared_ptr<const Catalog>& catalog,
                                              const RequestRules& rules) {
  const Json json = parse_body(body);
  try {
    return read_checked(JsonReader(json, "the request"), chat, catalog, rules);
  } catch (const Error& error) {  // a field of the wrong type, or a text that is not UTF-8
    throw ApiError(400, error.what());
  }
}

}  // namespace cbtm
