#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serve/event_loop.h"
#include "serve/http_request.h"

struct bufferevent;
struct evconnlistener;
struct sockaddr;

namespace cbtm {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpSettings {
  std::string host = "127.0.0.1";
  int port = 8080;      ///< 0: one that is free
  double timeout = 60;  ///< seconds without progress, while a request comes, an answer goes, or nothing happens
  size_t connections_max = 4096;
  HttpLimits limits;
};

/// An answer that is under way.
using Exchange = uint64_t;

/// Sockets, connections and the framing of HTTP/1.1: keep-alive, pipelined requests (answered in order), chunked bodies
/// both ways, "100 Continue". Everything is called in the loop's thread.
///
/// What parses requests is our own: evhttp of libevent 2.1 answers oversized requests itself, in HTML, and does not see
/// that a client has gone away while its answer is computed.
class HttpServer {
 public:
  struct Handlers {
    /// A whole request. It is answered by reply(), or begin_stream() and what follows it, now or later.
    std::function<void(Exchange, HttpRequest&)> request;
    /// What came is no request: {status, message}. Returns the body of the answer.
    std::function<std::string(int, const std::string&)> error_body;
    /// The client has gone away before the end of its answer: it closed its connection or its side of it, or it does
    /// not read.
    std::function<void(Exchange)> gone;
    /// All that was sent of a stream has left for the client.
    std::function<void(Exchange)> sent;
  };

  /// Listens. Throws Error if it cannot.
  HttpServer(EventLoop& loop, const HttpSettings& settings, Handlers handlers);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const { return port_; }
  /// The client's address, or "" if it has gone.
  std::string client(Exchange exchange) const;
  /// Bytes of the answer that wait for the client to read.
  size_t unsent(Exchange exchange) const;

  // Answers. Those to clients that have gone do nothing.
  void reply(Exchange exchange, int status, const HttpHeaders& headers, std::string_view body);
  void begin_stream(Exchange exchange, int status, const HttpHeaders& headers);
  void send(Exchange exchange, std::string_view piece);
  void end_stream(Exchange exchange);

  /// No new connections; those that are open are closed after their answer.
  void stop_accepting();
  bool has_connections() const { return !connections_.empty(); }

 private:
  struct Connection;
  using Clock = std::chrono::steady_clock;

  void accept(int socket, const sockaddr* address);
  void read(Connection& connection);
  void serve_next(Connection& connection);
  void refuse(Connection& connection, int status, const std::string& message);
  void write_head(Connection& connection, int status, const HttpHeaders& headers, const std::string& framing);
  void answered(Connection& connection);
  void close_when_sent(Connection& connection);
  void linger(Connection& connection);
  void drop(Connection& connection);
  void check_times();
  Connection* answering(Exchange exchange);

  EventLoop& loop_;
  HttpSettings settings_;
  Handlers handlers_;
  evconnlistener* listener_ = nullptr;
  int port_ = 0;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::map<Exchange, uint64_t> answering_;  ///< connections by exchange
  uint64_t next_connection_ = 1;
  Exchange next_exchange_ = 1;
};

}  // namespace cbtm
