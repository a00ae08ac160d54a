#include "serve/http_server.h"

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "cbtm/base/error.h"
#include "serve/api_error.h"

namespace cbtm {
namespace {

/// How long a client that was told that its connection ends may take to close it.
constexpr double kLingerSeconds = 2;

struct Address {
  sockaddr_storage storage{};
  int length = 0;
};

Address address_of(const std::string& host, int port) {
  Address address;
  const std::string numeric = host == "localhost" ? "127.0.0.1" : host;
  auto* four = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* six = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (::inet_pton(AF_INET, numeric.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof(sockaddr_in);
  } else if (::inet_pton(AF_INET6, numeric.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof(sockaddr_in6);
  } else {
    fail("{}: is no address to listen on; give one in numbers, as 127.0.0.1 or 0.0.0.0", host);
  }
  return address;
}

std::string name_of(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET)
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text, sizeof text);
  else if (address->sa_family == AF_INET6)
    ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, text, sizeof text);
  return text;
}

int port_of(int socket) {
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &length) != 0)
    fail("the server's port cannot be found out: {}", errno_text());
  return ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                          : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
}

}  // namespace

struct HttpServer::Connection {
  Connection(HttpServer& of, uint64_t id_, bufferevent* events_, std::string client_)
      : server(of), id(id_), events(events_), client(std::move(client_)), parser(of.settings_.limits) {}
  ~Connection() { bufferevent_free(events); }
  evbuffer* output() const { return bufferevent_get_output(events); }
  size_t unsent() const { return evbuffer_get_length(output()); }
  void write(std::string_view bytes) { bufferevent_write(events, bytes.data(), bytes.size()); }

  HttpServer& server;
  uint64_t id;
  bufferevent* events;
  std::string client;
  HttpParser parser;
  Exchange exchange = 0;                      ///< that is being answered; 0: none
  bool serving = false;                       ///< serve_next() is at work on it
  bool keep_alive = true;                     ///< after this answer
  bool in_chunks = false;                     ///< this answer
  bool takes_chunks = true;                   ///< the client of this request
  bool no_body = false;                       ///< the answer to HEAD
  bool closing = false;                       ///< when everything is sent
  bool lingering = false;                     ///< everything is sent; what still comes is thrown away
  bool dropped = false;                       ///< not to be used any more
  Clock::time_point progress = Clock::now();  ///< when a request began, an answer ended, or bytes went out
};

HttpServer::HttpServer(EventLoop& loop, const HttpSettings& settings, Handlers handlers)
    : loop_(loop), settings_(settings), handlers_(std::move(handlers)) {
  const Address address = address_of(settings.host, settings.port);
  const auto on_accept = [](evconnlistener*, evutil_socket_t socket, sockaddr* from, int, void* server) {
    static_cast<HttpServer*>(server)->accept(socket, from);
  };
  listener_ = evconnlistener_new_bind(loop.base(), on_accept, this,
                                      LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC, 1024,
                                      reinterpret_cast<const sockaddr*>(&address.storage), address.length);
  if (listener_ == nullptr) fail("{}:{}: cannot be listened on: {}", settings.host, settings.port, errno_text());
  port_ = port_of(evconnlistener_get_fd(listener_));
  loop.every(0.5, [this] { check_times(); });
}

HttpServer::~HttpServer() {
  if (listener_ != nullptr) evconnlistener_free(listener_);
}

void HttpServer::stop_accepting() {
  if (listener_ != nullptr) evconnlistener_free(listener_);
  listener_ = nullptr;
  for (const auto& [id, connection] : connections_) {
    connection->keep_alive = false;
    if (connection->exchange == 0) close_when_sent(*connection);
  }
}

void HttpServer::accept(int socket, const sockaddr* address) {
  const int yes = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  bufferevent* const events = bufferevent_socket_new(loop_.base(), socket, BEV_OPT_CLOSE_ON_FREE);
  if (events == nullptr) {
    ::close(socket);
    return;
  }
  const uint64_t id = next_connection_++;
  auto made = std::make_unique<Connection>(*this, id, events, name_of(address));
  Connection& connection = *made;
  connections_.emplace(id, std::move(made));
  const auto on_read = [](bufferevent*, void* of) {
    Connection& here = *static_cast<Connection*>(of);
    here.server.read(here);
  };
  const auto on_sent = [](bufferevent*, void* of) {
    Connection& here = *static_cast<Connection*>(of);
    if (here.closing) here.server.linger(here);
    if (here.exchange != 0) here.server.handlers_.sent(here.exchange);
  };
  const auto on_event = [](bufferevent*, short what, void* of) {  // the end of what the client sends, or an error
    Connection& here = *static_cast<Connection*>(of);
    if ((what & BEV_EVENT_EOF) != 0 && here.exchange == 0 && here.unsent() > 0 && !here.lingering)
      here.server.close_when_sent(here);  // a client that has sent all it wants to, and waits for the answer
    else
      here.server.drop(here);
  };
  bufferevent_setcb(events, on_read, on_sent, on_event, &connection);
  const auto on_output = [](evbuffer*, const evbuffer_cb_info* info, void* of) {
    if (info->n_deleted > 0) static_cast<Connection*>(of)->progress = Clock::now();
  };
  evbuffer_add_cb(connection.output(), on_output, &connection);
  // What a client sends while it is answered waits in the socket, but for the first bytes.
  bufferevent_setwatermark(events, EV_READ, 0, settings_.limits.head_bytes_max + 16384);
  bufferevent_enable(events, EV_READ | EV_WRITE);
  if (connections_.size() > settings_.connections_max) refuse(connection, 503, "too many connections; try again later");
}

void HttpServer::read(Connection& connection) {
  if (connection.lingering) {
    evbuffer* const input = bufferevent_get_input(connection.events);
    evbuffer_drain(input, evbuffer_get_length(input));
  }
  if (connection.dropped || connection.closing || connection.exchange != 0) return;
  if (!connection.parser.within_request()) connection.progress = Clock::now();
  serve_next(connection);
}

/// Reads what has come, and serves the requests in it until one is to be answered later.
void HttpServer::serve_next(Connection& connection) {
  if (connection.serving) return;
  connection.serving = true;
  while (!connection.dropped && !connection.closing && connection.exchange == 0) {
    evbuffer* const input = bufferevent_get_input(connection.events);
    std::string bytes(evbuffer_get_length(input), '\0');
    evbuffer_remove(input, bytes.data(), bytes.size());
    connection.parser.append(bytes);
    HttpRequest request;
    try {
      if (!connection.parser.next(request)) {
        if (connection.parser.wants_continue()) connection.write("HTTP/1.1 100 Continue\r\n\r\n");
        break;
      }
    } catch (const ApiError& error) {
      refuse(connection, error.status(), error.what());
      break;
    }
    connection.exchange = next_exchange_++;
    connection.keep_alive = request.keep_alive && listener_ != nullptr;
    connection.takes_chunks = request.takes_chunks;
    connection.no_body = request.method == "HEAD";
    answering_.emplace(connection.exchange, connection.id);
    handlers_.request(connection.exchange, request);
  }
  connection.serving = false;
}

/// Says what is wrong, and closes: where the next request begins cannot be known.
void HttpServer::refuse(Connection& connection, int status, const std::string& message) {
  const std::string body = handlers_.error_body(status, message);
  connection.keep_alive = false;
  connection.no_body = false;
  write_head(connection, status, {{"Content-Type", "application/json"}},
             fmt::format("Content-Length: {}\r\n", body.size()));
  connection.write(body);
  close_when_sent(connection);
}

HttpServer::Connection* HttpServer::answering(Exchange exchange) {
  const auto found = answering_.find(exchange);
  return found == answering_.end() ? nullptr : connections_.at(found->second).get();
}

std::string HttpServer::client(Exchange exchange) const {
  const auto found = answering_.find(exchange);
  return found == answering_.end() ? "" : connections_.at(found->second)->client;
}

size_t HttpServer::unsent(Exchange exchange) const {
  const auto found = answering_.find(exchange);
  return found == answering_.end() ? 0 : connections_.at(found->second)->unsent();
}

void HttpServer::write_head(Connection& connection, int status, const HttpHeaders& headers,
                            const std::string& framing) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, status_text(status));
  for (const auto& [name, value] : headers) head += name + ": " + value + "\r\n";
  head += framing;
  head += connection.keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  connection.write(head);
}

void HttpServer::reply(Exchange exchange, int status, const HttpHeaders& headers, std::string_view body) {
  Connection* const connection = answering(exchange);
  if (connection == nullptr) return;
  write_head(*connection, status, headers, status == 204 ? "" : fmt::format("Content-Length: {}\r\n", body.size()));
  if (!connection->no_body) connection->write(body);
  answered(*connection);
}

void HttpServer::begin_stream(Exchange exchange, int status, const HttpHeaders& headers) {
  Connection* const connection = answering(exchange);
  if (connection == nullptr) return;
  connection->in_chunks = connection->takes_chunks;
  if (!connection->in_chunks) connection->keep_alive = false;
  write_head(*connection, status, headers, connection->in_chunks ? "Transfer-Encoding: chunked\r\n" : "");
}

void HttpServer::send(Exchange exchange, std::string_view piece) {
  Connection* const connection = answering(exchange);
  if (connection == nullptr || piece.empty()) return;
  if (connection->unsent() == 0) connection->progress = Clock::now();
  if (connection->in_chunks) connection->write(fmt::format("{:x}\r\n", piece.size()));
  connection->write(piece);
  if (connection->in_chunks) connection->write("\r\n");
}

void HttpServer::end_stream(Exchange exchange) {
  Connection* const connection = answering(exchange);
  if (connection == nullptr) return;
  if (connection->in_chunks) connection->write("0\r\n\r\n");
  answered(*connection);
}

void HttpServer::answered(Connection& connection) {
  answering_.erase(connection.exchange);
  connection.exchange = 0;
  connection.in_chunks = false;
  connection.progress = Clock::now();
  if (!connection.keep_alive || listener_ == nullptr) return close_when_sent(connection);
  serve_next(connection);  // what the client has sent meanwhile
}

void HttpServer::close_when_sent(Connection& connection) {
  connection.closing = true;
  connection.progress = Clock::now();
  bufferevent_disable(connection.events, EV_READ);
  if (connection.unsent() == 0) linger(connection);
}

/// Everything is sent. If the connection were closed while the client still sends, the system would throw away the
/// answer, too; so the client has a moment to read it and to close.
void HttpServer::linger(Connection& connection) {
  if (connection.lingering || connection.dropped) return;
  connection.lingering = true;
  connection.progress = Clock::now();
  ::shutdown(bufferevent_getfd(connection.events), SHUT_WR);
  bufferevent_enable(connection.events, EV_READ);
}

/// Ends the connection now. Its memory is given up outside of all calls that may still use it.
void HttpServer::drop(Connection& connection) {
  if (connection.dropped) return;
  connection.dropped = true;
  const Exchange exchange = connection.exchange;
  connection.exchange = 0;
  bufferevent_disable(connection.events, EV_READ | EV_WRITE);
  answering_.erase(exchange);
  loop_.post([this, id = connection.id] { connections_.erase(id); });
  if (exchange != 0) handlers_.gone(exchange);
}

void HttpServer::check_times() {
  const Clock::time_point now = Clock::now();
  std::vector<Connection*> late;
  for (const auto& [id, connection] : connections_) {
    const double waited = std::chrono::duration<double>(now - connection->progress).count();
    const bool waits_for_us = connection->exchange != 0 && connection->unsent() == 0;
    const double patience = connection->lingering ? std::min(kLingerSeconds, settings_.timeout) : settings_.timeout;
    if (!connection->dropped && !waits_for_us && waited > patience) late.push_back(connection.get());
  }
  for (Connection* const connection : late) {
    if (connection->exchange == 0 && connection->unsent() == 0 && !connection->closing &&
        connection->parser.within_request())
      refuse(*connection, 408, fmt::format("the request did not come within {} seconds", settings_.timeout));
    else
      drop(*connection);
  }
}

}  // namespace cbtm
