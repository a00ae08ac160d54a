#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

struct HttpReply {
  int status = 0;
  std::map<std::string, std::string> headers;  ///< names in lower case
  std::string body;
  Json json() const { return Json::parse(body); }
};

/// A connection to a server on this machine that tests hold in their hands.
class HttpConnection {
 public:
  explicit HttpConnection(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("the server cannot be reached");
  }
  ~HttpConnection() { close(); }
  HttpConnection(HttpConnection&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), held_(std::move(other.held_)) {}
  HttpConnection& operator=(HttpConnection&&) = delete;

  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void half_close() { ::shutdown(socket_, SHUT_WR); }
  int socket() const { return socket_; }

  /// False if the server has closed the connection.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  /// Waits for more bytes. False at the end of what the server sends, or after `seconds` without any.
  bool receive(double seconds = 60) {
    pollfd ready{.fd = socket_, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, static_cast<int>(seconds * 1e3)) <= 0) return false;
    char bytes[16384];
    const ssize_t count = ::recv(socket_, bytes, sizeof bytes, 0);
    if (count <= 0) return false;
    held_.append(bytes, static_cast<size_t>(count));
    return true;
  }
  /// Everything until the end.
  std::string receive_all(double seconds = 60) {
    while (receive(seconds)) {
    }
    return std::exchange(held_, {});
  }
  /// Waits until this text has come.
  bool receive_until(std::string_view text, double seconds = 60) {
    while (held_.find(text) == std::string::npos)
      if (!receive(seconds)) return false;
    return true;
  }
  const std::string& held() const { return held_; }

  /// Reads one reply. Its status is 0 if the connection ends before.
  HttpReply reply(bool without_body = false) {
    HttpReply reply;
    if (!receive_until("\r\n\r\n")) return {};
    const size_t head = held_.find("\r\n\r\n");
    const std::string text = held_.substr(0, head);
    held_.erase(0, head + 4);
    reply.status = std::stoi(text.substr(9, 3));
    for (size_t begin = text.find("\r\n"); begin != std::string::npos;) {
      begin += 2;
      const size_t end = std::min(text.find("\r\n", begin), text.size());
      const size_t colon = text.find(": ", begin);
      std::string name = text.substr(begin, colon - begin);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      reply.headers[name] = text.substr(colon + 2, end - colon - 2);
      begin = text.find("\r\n", begin);
    }
    if (without_body || reply.status == 204 || reply.status == 100) return reply;
    if (reply.headers.contains("transfer-encoding")) {
      for (;;) {
        if (!receive_until("\r\n")) return {};
        const size_t line = held_.find("\r\n");
        const size_t length = std::stoul(held_.substr(0, line), nullptr, 16);
        while (held_.size() < line + 2 + length + 2)
          if (!receive()) return {};
        reply.body += held_.substr(line + 2, length);
        held_.erase(0, line + 2 + length + 2);
        if (length == 0) return reply;
      }
    }
    if (!reply.headers.contains("content-length")) {
      reply.body = receive_all();
      return reply;
    }
    const size_t length = std::stoul(reply.headers.at("content-length"));
    while (held_.size() < length)
      if (!receive()) return {};
    reply.body = held_.substr(0, length);
    held_.erase(0, length);
    return reply;
  }

 private:
  int socket_;
  std::string held_;
};

inline std::string http_text(const std::string& method, const std::string& path, const std::string& body = "",
                             const std::string& headers = "") {
  return method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers +
         (body.empty() && method == "GET" ? "" : "Content-Length: " + std::to_string(body.size()) + "\r\n") + "\r\n" +
         body;
}

inline HttpReply http_get(int port, const std::string& path, const std::string& headers = "") {
  HttpConnection connection(port);
  connection.send(http_text("GET", path, "", headers));
  return connection.reply();
}

inline HttpReply http_post(int port, const std::string& path, const std::string& body,
                           const std::string& headers = "Content-Type: application/json\r\n") {
  HttpConnection connection(port);
  connection.send(http_text("POST", path, body, headers));
  return connection.reply();
}

inline HttpReply http_post(int port, const std::string& path, const Json& body) {
  return http_post(port, path, body.dump());
}

/// The events of a stream, without [DONE]; an Error if the framing is wrong.
inline std::vector<Json> events_of(const std::string& body) {
  std::vector<Json> events;
  bool done = false;
  for (size_t begin = 0; begin < body.size();) {
    const size_t end = body.find("\n\n", begin);
    if (end == std::string::npos || done) throw std::runtime_error("an event does not end, or comes after [DONE]");
    const std::string event = body.substr(begin, end - begin);
    begin = end + 2;
    if (event.starts_with(":")) continue;
    if (!event.starts_with("data: ")) throw std::runtime_error("an event without data: " + event);
    if (event == "data: [DONE]")
      done = true;
    else
      events.push_back(Json::parse(event.substr(6)));
  }
  if (!done) throw std::runtime_error("a stream without [DONE]");
  return events;
}

}  // namespace cbtm
