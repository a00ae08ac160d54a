#include "serve/http_request.h"

#include <algorithm>
#include <optional>

#include "cbtm/base/numbers.h"
#include "cbtm/base/split.h"
#include "serve/api_error.h"

namespace cbtm {
namespace {

constexpr size_t kChunkLineMax = 256;
constexpr size_t kHeadersMax = 256;

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

/// Characters that names of methods and headers are made of (RFC 9110, 5.6.2).
bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

/// "Connection: keep-alive, Upgrade" names the word.
bool lists(std::string_view value, std::string_view word) {
  const std::vector<std::string> words = split(lower_case(value), ',');
  return std::any_of(words.begin(), words.end(), [&](const std::string& part) { return trimmed(part) == word; });
}

std::optional<size_t> hexadecimal(std::string_view digits) {
  if (digits.empty() || digits.size() > 8) return std::nullopt;
  size_t value = 0;
  for (const char c : digits) {
    const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
    if (!((lower >= '0' && lower <= '9') || (lower >= 'a' && lower <= 'f'))) return std::nullopt;
    value = value * 16 + static_cast<size_t>(lower <= '9' ? lower - '0' : lower - 'a' + 10);
  }
  return value;
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (key == name) return value;
  return {};
}

bool HttpParser::next(HttpRequest& request) {
  if (!head_read_) {
    while (input_.starts_with("\r\n") || input_.starts_with("\n"))  // between requests
      input_.erase(0, input_.front() == '\r' ? 2 : 1);
    size_t end = input_.find("\r\n\r\n"), gap = 4;
    if (const size_t bare = input_.find("\n\n"); bare < end) end = bare, gap = 2;
    if (std::min(end, input_.size()) > limits_.head_bytes_max)
      refuse(431, "the request's headers are longer than {} bytes", limits_.head_bytes_max);
    if (end == std::string::npos) return false;
    const std::string head = input_.substr(0, end);
    input_.erase(0, end + gap);
    read_head(head);
    head_read_ = true;
  }
  if (chunked_) {
    if (!read_chunks()) return false;
  } else {
    const size_t part = std::min(body_left_, input_.size());
    request_.body.append(input_, 0, part);
    input_.erase(0, part);
    body_left_ -= part;
    if (body_left_ > 0) return false;
  }
  request = std::move(request_);
  request_ = {};
  head_read_ = chunked_ = last_chunk_ = wants_continue_ = false;
  return true;
}

bool HttpParser::wants_continue() {
  const bool wanted = wants_continue_ && head_read_ && request_.body.empty();
  wants_continue_ = false;
  return wanted;
}

void HttpParser::read_head(std::string_view head) {
  if (head.find('\0') != std::string_view::npos) refuse(400, "the request's headers hold a zero byte");
  std::vector<std::string_view> lines;
  for (size_t begin = 0; begin <= head.size();) {
    const size_t end = std::min(head.find('\n', begin), head.size());
    std::string_view line = head.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    begin = end + 1;
  }
  const std::string_view first = lines.front();
  const size_t target = first.find(' ');
  const size_t version = first.rfind(' ');
  if (target == std::string_view::npos || version == target || !is_token(first.substr(0, target)))
    refuse(400, "this is no request of HTTP/1.1");
  request_.method = first.substr(0, target);
  std::string_view path = first.substr(target + 1, version - target - 1);
  const std::string_view protocol = first.substr(version + 1);
  if (protocol != "HTTP/1.1" && protocol != "HTTP/1.0") refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  if (path.starts_with("http://")) {  // as a proxy asks
    const size_t slash = path.find('/', 7);
    path = slash == std::string_view::npos ? "/" : path.substr(slash);
  }
  if (!path.starts_with('/')) refuse(400, "the request's path must begin with /");
  request_.path = path.substr(0, path.find('?'));
  request_.keep_alive = request_.takes_chunks = protocol == "HTTP/1.1";
  if (lines.size() > kHeadersMax) refuse(431, "the request has more than {} headers", kHeadersMax);
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t colon = lines[i].find(':');
    if (colon == std::string_view::npos || !is_token(lines[i].substr(0, colon)))
      refuse(400, "line {} of the request's headers is no header", i);
    request_.headers.emplace_back(lower_case(lines[i].substr(0, colon)), trimmed(lines[i].substr(colon + 1)));
  }
  if (lists(request_.header("connection"), "close")) request_.keep_alive = false;
  if (lists(request_.header("connection"), "keep-alive")) request_.keep_alive = true;
  body_left_ = 0;
  const std::string_view coding = request_.header("transfer-encoding");
  int64_t lengths = 0;
  for (const auto& [name, value] : request_.headers) lengths += name == "content-length" ? 1 : 0;
  if (!coding.empty()) {
    if (lower_case(coding) != "chunked") refuse(501, "the transfer encoding {} is not understood; use chunked", coding);
    if (lengths != 0) refuse(400, "a request has a Content-Length or a Transfer-Encoding, not both");
    chunked_ = true;
  } else if (lengths != 0) {
    const std::optional<uint64_t> length = parse_unsigned(request_.header("content-length"));
    if (!length || lengths > 1) refuse(400, "the request's Content-Length is no number");
    if (*length > limits_.body_bytes_max)
      refuse(413, "the request's body is larger than {} bytes", limits_.body_bytes_max);
    body_left_ = *length;
  }
  wants_continue_ = lower_case(request_.header("expect")) == "100-continue";
}

/// Whether the last chunk and the trailers behind it have been read.
bool HttpParser::read_chunks() {
  for (;;) {
    if (body_left_ > 0) {  // of a chunk, with the end of its line
      const size_t data = std::min(body_left_ > 2 ? body_left_ - 2 : 0, input_.size());
      request_.body.append(input_, 0, data);
      input_.erase(0, data);
      body_left_ -= data;
      if (body_left_ > 2 || input_.size() < body_left_) return false;
      if (std::string_view(input_).substr(0, body_left_) != std::string_view("\r\n").substr(2 - body_left_))
        refuse(400, "a chunk of the request's body is longer than it says");
      input_.erase(0, body_left_);
      body_left_ = 0;
    }
    const size_t end = input_.find("\r\n");
    if (end == std::string::npos) {
      if (input_.size() > kChunkLineMax) refuse(400, "a chunk of the request's body has no length");
      return false;
    }
    const std::string line = input_.substr(0, end);
    if (end > kChunkLineMax) refuse(400, "a chunk of the request's body has no length");
    input_.erase(0, end + 2);
    if (last_chunk_) {
      if (line.empty()) return true;
      continue;  // a trailer
    }
    const std::optional<size_t> length = hexadecimal(trimmed(line.substr(0, line.find(';'))));
    if (!length) refuse(400, "a chunk of the request's body has no length");
    if (request_.body.size() + *length > limits_.body_bytes_max)
      refuse(413, "the request's body is larger than {} bytes", limits_.body_bytes_max);
    last_chunk_ = *length == 0;
    if (!last_chunk_) body_left_ = *length + 2;
  }
}

}  // namespace cbtm
