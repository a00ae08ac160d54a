#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "cbtm/base/json.h"

namespace cbtm {

/// A request that cannot be served. The client gets it as {"error": {"code", "message", "type"}} with the status.
class ApiError : public std::runtime_error {
 public:
  ApiError(int status, const std::string& message) : std::runtime_error(message), status_(status) {}
  int status() const { return status_; }

 private:
  int status_;
};

/// Throws ApiError with a formatted message (fmt syntax).
template <typename... Arguments>
[[noreturn]] void refuse(int status, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw ApiError(status, fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// The body of an error's reply. The type follows from the status.
Json error_json(int status, const std::string& message);
/// "Too Many Requests".
const char* status_text(int status);

}  // namespace cbtm
