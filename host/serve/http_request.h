#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cbtm {

/// One request as it came.
struct HttpRequest {
  std::string method;
  std::string path;                                          ///< without the query
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  std::string body;
  bool keep_alive = true;    ///< the connection may serve another request afterwards
  bool takes_chunks = true;  ///< HTTP/1.1: a reply of unknown length can be sent in chunks

  /// The value of a header, or "".
  std::string_view header(std::string_view name) const;
};

struct HttpLimits {
  size_t head_bytes_max = 64 << 10;  ///< request line and headers
  size_t body_bytes_max = 32 << 20;
};

/// Reads requests of HTTP/1.0 and 1.1 from the bytes of a connection, as they come.
class HttpParser {
 public:
  explicit HttpParser(const HttpLimits& limits) : limits_(limits) {}

  /// Appends what came. Call next() afterwards.
  void append(std::string_view bytes) { input_ += bytes; }
  /// Whether a whole request is there; it is moved to `request`. Bytes behind it are kept for the next call. Throws
  /// ApiError if what came is no request or is too large; nothing can be read from the connection any more.
  bool next(HttpRequest& request);
  /// Whether the client waits for "100 Continue" before it sends its body. True once for each request.
  bool wants_continue();
  /// Whether a request has begun and is not whole yet.
  bool within_request() const { return head_read_ || !input_.empty(); }
  /// Bytes that have come and belong to no finished request.
  size_t pending() const { return input_.size() + request_.body.size(); }

 private:
  void read_head(std::string_view head);
  bool read_chunks();

  HttpLimits limits_;
  std::string input_;
  HttpRequest request_;
  bool head_read_ = false;
  bool chunked_ = false;
  bool last_chunk_ = false;  ///< trailers follow
  bool wants_continue_ = false;
  size_t body_left_ = 0;
};

}  // namespace cbtm
