#include "serve/api.h"

#include <algorithm>
#include <random>

#include "cbtm/base/error.h"
#include "serve/api_error.h"
#include "serve/model_endpoints.h"
#include "serve/page.h"

namespace cbtm {
namespace {

/// Seconds after which a stream that waits gets a comment, so that nobody between takes it for dead.
constexpr double kPingSeconds = 15;
/// Bytes of a stream that may wait for the client to read them.
constexpr size_t kUnsentMax = 1 << 20;
constexpr const char* kJson = "application/json";
constexpr const char* kPaths[] = {"/",
                                  "/health",
                                  "/metrics",
                                  "/v1/models",
                                  "/v1/experts",
                                  "/v1/experts/reload",
                                  "/v1/completions",
                                  "/v1/chat/completions",
                                  "/v1/embeddings",
                                  "/tokenize",
                                  "/detokenize",
                                  "/tokenizer_info"};

/// Compares without telling by its time where the two begin to differ.
bool same_key(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i)
    difference |=
        static_cast<unsigned>(static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(b[b.empty() ? 0 : i % b.size()]));
  return difference == 0;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Paths that nobody serves are counted together: there are any number of them.
std::string counted_path(const std::string& path) {
  if (path.starts_with("/v1/models/")) return "/v1/models";
  return std::find(std::begin(kPaths), std::end(kPaths), path) != std::end(kPaths) ? path : "other";
}

void require_method(const HttpRequest& request, std::string_view method) {
  if (request.method != method && !(method == "GET" && request.method == "HEAD"))
    refuse(405, "{} takes {}, not {}", request.path, method, request.method);
}

}  // namespace

Api::Api(const ServerSettings& settings, EventLoop& loop, ServeMetrics& metrics)
    : settings_(settings),
      loop_(loop),
      metrics_(metrics),
      log_(settings.log),
      chat_template_(settings.chat_template.empty() ? ChatTemplate() : ChatTemplate::load(settings.chat_template)) {
  id_prefix_ = fmt::format("{:08x}", std::random_device{}());
}

void Api::connect(HttpServer& http, Engine& engine) {
  http_ = &http;
  engine_ = &engine;
}

std::string Api::new_id(bool chat) {
  return fmt::format("{}-{}{:06x}", chat ? "chatcmpl" : "cmpl", id_prefix_, next_id_++);
}

void Api::request(Exchange exchange, HttpRequest& request) {
  Open& open = open_[exchange];
  open.method = request.method;
  open.path = request.path;
  open.client = http_->client(exchange);
  open.origin = request.header("origin");
  try {
    route(exchange, open, request);
  } catch (const ApiError& error) {
    fail(exchange, error.status(), error.what());
  } catch (const std::exception& error) {
    fail(exchange, 500, error.what());
  }
}

void Api::check_key(const HttpRequest& request) const {
  if (settings_.api_keys.empty()) return;
  std::string_view given = request.header("authorization");
  if (given.starts_with("Bearer ") || given.starts_with("bearer ")) given.remove_prefix(7);
  if (given.empty()) given = request.header("x-api-key");
  bool known = false;
  for (const std::string& key : settings_.api_keys) known = same_key(given, key) || known;
  if (!known)
    refuse(401, "{}",
           given.empty() ? "this server needs an API key: Authorization: Bearer KEY" : "the API key is wrong");
}

std::shared_ptr<const Catalog> Api::ready_catalog() const {
  std::shared_ptr<const Catalog> catalog = engine_->catalog();
  if (catalog == nullptr) refuse(503, "loading model");
  return catalog;
}

void Api::route(Exchange exchange, Open& open, HttpRequest& request) {
  const std::string& path = request.path;
  if (request.method == "OPTIONS") return answer(exchange, 204, kJson, "");
  if (path == "/") {
    require_method(request, "GET");
    return answer(exchange, 200, "text/html; charset=utf-8", std::string(page()),
                  {{"Content-Security-Policy",
                    "default-src 'none'; style-src 'unsafe-inline'; "
                    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"}});
  }
  if (path == "/health" || path == "/v1/health") {
    require_method(request, "GET");
    ready_catalog();
    return answer(exchange, 200, {{"status", "ok"}});
  }
  const bool models = path == "/v1/models" || path.starts_with("/v1/models/");
  if (!models && std::find(std::begin(kPaths), std::end(kPaths), path) == std::end(kPaths))
    refuse(404, "there is nothing at {}", path);
  check_key(request);
  require_method(request,
                 models || path == "/metrics" || path == "/v1/experts" || path == "/tokenizer_info" ? "GET" : "POST");
  if (path == "/metrics") return answer(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", metrics_.text());
  const std::shared_ptr<const Catalog> catalog = ready_catalog();
  if (path == "/v1/completions") return generate(exchange, open, request, false);
  if (path == "/v1/chat/completions") return generate(exchange, open, request, true);
  if (path == "/v1/models") return answer(exchange, 200, models_json(*catalog));
  if (models) return answer(exchange, 200, model_json(*catalog, path.substr(sizeof("/v1/models/") - 1)));
  if (path == "/v1/experts") return answer(exchange, 200, experts_json(*catalog, metrics_));
  if (path == "/tokenize") return answer(exchange, 200, tokenize_json(*catalog, request.body));
  if (path == "/detokenize") return answer(exchange, 200, detokenize_json(*catalog, request.body));
  if (path == "/tokenizer_info") return answer(exchange, 200, tokenizer_info_json(*catalog, chat_template_));
  if (path == "/v1/embeddings") return answer(exchange, 200, embeddings_json(*catalog, request.body));
  reload([this, exchange](const std::string& problem) {
    if (!problem.empty()) return fail(exchange, 500, problem);
    answer(exchange, 200, models_json(*engine_->catalog()));
  });
}

void Api::reload(std::function<void(const std::string&)> done) {
  engine_->reload(
      [this, done = std::move(done)](const std::string& problem) { loop_.post([done, problem] { done(problem); }); });
}

void Api::generate(Exchange exchange, Open& open, const HttpRequest& request, bool chat) {
  if (stopping_) refuse(503, "the server is being stopped");
  GenerationRequestBody body =
      read_generation_request(request.body, chat, ready_catalog(), {settings_.tokens_max, &chat_template_});
  open.job = body.job;
  open.id = new_id(chat);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  open.reply = std::make_unique<GenerationReply>(std::move(body), open.id,
                                                 std::chrono::duration_cast<std::chrono::seconds>(now).count());
  open.job->on_update = [this, exchange](TextUpdate&& update) {
    loop_.post([this, exchange, held = std::make_shared<TextUpdate>(std::move(update))] { updated(exchange, *held); });
  };
  ++metrics_.requests_open;
  if (engine_->submit(open.job)) return;
  --metrics_.requests_open;
  open.job = nullptr;
  refuse(429, "all places are taken and the queue is full; try again later");
}

void Api::begin_stream(Exchange exchange, Open& open) {
  if (open.streaming) return;
  open.streaming = true;
  HttpHeaders headers = common_headers(open);
  headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
  headers.emplace_back("X-Accel-Buffering", "no");
  http_->begin_stream(exchange, 200, headers);
}

void Api::updated(Exchange exchange, TextUpdate& update) {
  const auto found = open_.find(exchange);
  if (found == open_.end()) return;  // the client has gone, or a text of the same request has failed
  Open& open = found->second;
  if (open.first_token < 0 && !update.ids.empty()) open.first_token = seconds_since(open.arrived);
  open.reply->add(std::move(update));
  if (const std::string error = open.reply->error(); !error.empty()) {
    open.job->cancelled = true;
    engine_->wake();
    if (!open.streaming) return fail(exchange, 500, error);
    http_->send(exchange, event_of(error_json(500, error)) + "data: [DONE]\n\n");
    http_->end_stream(exchange);
    return close(exchange, 500, error);
  }
  if (!open.job->stream) {
    if (open.reply->complete()) answer(exchange, 200, open.reply->whole());
    return;
  }
  send_new(exchange, open);
}

/// Sends what is new of a stream. If the client is behind, it waits and grows together, until the client has read.
void Api::send_new(Exchange exchange, Open& open) {
  if (http_->unsent(exchange) > kUnsentMax) return;
  begin_stream(exchange, open);
  open.last_event = Clock::now();
  const bool complete = open.reply->complete();
  http_->send(exchange, open.reply->new_events() + (complete ? open.reply->last_events() : ""));
  if (!complete) return;
  http_->end_stream(exchange);
  close(exchange, 200, "");
}

void Api::sent(Exchange exchange) {
  const auto found = open_.find(exchange);
  if (found != open_.end() && found->second.job != nullptr && found->second.job->stream &&
      found->second.reply->has_new())
    send_new(exchange, found->second);
}

void Api::tick() {
  std::vector<Exchange> waiting;
  for (const auto& [exchange, open] : open_)
    if (open.job != nullptr && open.job->stream && seconds_since(open.last_event) > kPingSeconds)
      waiting.push_back(exchange);
  for (const Exchange exchange : waiting) {
    Open& open = open_.at(exchange);
    begin_stream(exchange, open);
    open.last_event = Clock::now();
    http_->send(exchange, ": waiting\n\n");
  }
}

void Api::gone(Exchange exchange) {
  const auto found = open_.find(exchange);
  if (found == open_.end()) return;
  if (found->second.job != nullptr) {
    found->second.job->cancelled = true;
    engine_->wake();
    ++metrics_.cancelled;
  }
  close(exchange, 499, "the client has gone away");
}

std::string Api::malformed(int status, const std::string& message) {
  metrics_.count_request("other", status);
  log_.write({{"status", status}, {"error", message}});
  return dumped(error_json(status, message));
}

HttpHeaders Api::common_headers(const Open& open) const {
  HttpHeaders headers = {{"Server", "cbtm"}, {"Cache-Control", "no-store"}};
  if (!open.id.empty()) headers.emplace_back("X-Request-Id", open.id);
  const bool allowed = settings_.cors_origin == "*" || (!open.origin.empty() && settings_.cors_origin == open.origin);
  if (allowed) {
    headers.emplace_back("Access-Control-Allow-Origin", settings_.cors_origin);
    headers.emplace_back("Vary", "Origin");
    if (open.method == "OPTIONS") {
      headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
      headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key");
      headers.emplace_back("Access-Control-Max-Age", "600");
    }
  }
  return headers;
}

void Api::answer(Exchange exchange, int status, const Json& json) { answer(exchange, status, kJson, dumped(json)); }

void Api::answer(Exchange exchange, int status, const std::string& type, const std::string& body,
                 const HttpHeaders& more) {
  const auto found = open_.find(exchange);
  if (found == open_.end()) return;
  HttpHeaders headers = common_headers(found->second);
  if (!body.empty()) headers.emplace_back("Content-Type", type);
  headers.insert(headers.end(), more.begin(), more.end());
  http_->reply(exchange, status, headers, body);
  close(exchange, status, "");
}

void Api::fail(Exchange exchange, int status, const std::string& message) {
  const auto found = open_.find(exchange);
  if (found == open_.end()) return;
  HttpHeaders headers = common_headers(found->second);
  headers.emplace_back("Content-Type", kJson);
  if (status == 429 || status == 503) headers.emplace_back("Retry-After", "1");
  if (status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
  http_->reply(exchange, status, headers, dumped(error_json(status, message)));
  close(exchange, status, message);
}

/// The request has been answered: it is counted and logged.
void Api::close(Exchange exchange, int status, const std::string& error) {
  const auto found = open_.find(exchange);
  if (found == open_.end()) return;
  const Open open = std::move(found->second);
  open_.erase(found);
  const double seconds = seconds_since(open.arrived);
  metrics_.count_request(counted_path(open.path), status);
  Json line = {
      {"client", open.client}, {"method", open.method}, {"path", open.path}, {"status", status}, {"seconds", seconds}};
  if (!error.empty()) line["error"] = error;
  if (open.job != nullptr) {
    --metrics_.requests_open;
    metrics_.request.observe(seconds);
    line["id"] = open.id;
    line["model"] = open.job->model->id;
    line["texts"] = open.job->texts();
    line["prompt_tokens"] = open.reply->prompt_tokens();
    line["completion_tokens"] = open.reply->completion_tokens();
    line["finish"] = open.reply->finish();
    if (open.first_token >= 0) line["first_token_seconds"] = open.first_token;
  }
  log_.write(std::move(line));
}

}  // namespace cbtm
