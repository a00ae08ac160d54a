#include "serve/api_error.h"

namespace cbtm {

Json error_json(int status, const std::string& message) {
  const char* type = "server_error";
  switch (status) {
    case 401: type = "authentication_error"; break;
    case 404: type = "not_found_error"; break;
    case 429: type = "rate_limit_error"; break;
    case 503: type = "unavailable_error"; break;
    default:
      if (status < 500) type = "invalid_request_error";
  }
  return {{"error", {{"code", status}, {"message", message}, {"type", type}}}};
}

const char* status_text(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Status";
  }
}

}  // namespace cbtm
