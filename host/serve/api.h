#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "serve/chat_template.h"
#include "serve/engine.h"
#include "serve/generation_reply.h"
#include "serve/http_server.h"
#include "serve/metrics.h"
#include "serve/request_log.h"

namespace cbtm {

/// The endpoints: who may use them, what they answer, what is logged of them. Everything is called in the loop's
/// thread.
class Api {
 public:
  Api(const ServerSettings& settings, EventLoop& loop, ServeMetrics& metrics);

  /// Both must be there before the first request; the engine may not be ready.
  void connect(HttpServer& http, Engine& engine);
  void request(Exchange exchange, HttpRequest& request);
  /// The body of the answer to what is no request.
  std::string malformed(int status, const std::string& message);
  void gone(Exchange exchange);
  /// The client has read what there was of a stream.
  void sent(Exchange exchange);
  /// The engine could not begin: requests are not waited for any more.
  bool has_open_requests() const { return !open_.empty(); }
  /// No new requests for texts.
  void stop_taking() { stopping_ = true; }
  /// Keeps the connections of waiting streams alive.
  void tick();
  void reload(std::function<void(const std::string&)> done);

 private:
  using Clock = std::chrono::steady_clock;
  /// A request that is not answered to its end.
  struct Open {
    std::string method, path, client, id, origin;
    Clock::time_point arrived = Clock::now(), last_event = Clock::now();
    double first_token = -1;                 ///< seconds from its arrival
    std::unique_ptr<GenerationReply> reply;  ///< of requests for texts
    std::shared_ptr<Job> job;
    bool streaming = false;  ///< the head has been sent
  };

  void route(Exchange exchange, Open& open, HttpRequest& request);
  void check_key(const HttpRequest& request) const;
  std::shared_ptr<const Catalog> ready_catalog() const;
  void generate(Exchange exchange, Open& open, const HttpRequest& request, bool chat);
  void updated(Exchange exchange, TextUpdate& update);
  void begin_stream(Exchange exchange, Open& open);
  void send_new(Exchange exchange, Open& open);
  void answer(Exchange exchange, int status, const Json& json);
  void answer(Exchange exchange, int status, const std::string& type, const std::string& body,
              const HttpHeaders& more = {});
  void fail(Exchange exchange, int status, const std::string& message);
  void close(Exchange exchange, int status, const std::string& error);
  HttpHeaders common_headers(const Open& open) const;
  std::string new_id(bool chat);

  const ServerSettings& settings_;
  EventLoop& loop_;
  ServeMetrics& metrics_;
  RequestLog log_;
  ChatTemplate chat_template_;
  HttpServer* http_ = nullptr;
  Engine* engine_ = nullptr;
  std::map<Exchange, Open> open_;
  bool stopping_ = false;
  uint64_t next_id_ = 0;
  std::string id_prefix_;  ///< differs from server to server
};

}  // namespace cbtm
