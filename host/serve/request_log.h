#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>

#include "cbtm/base/json.h"

namespace cbtm {

/// One line of JSON for each request (docs/serving.md, 'The log').
class RequestLog {
 public:
  /// "": stderr, unless --quiet. Throws Error if the file cannot be opened; lines are appended to it.
  explicit RequestLog(const std::filesystem::path& file);
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  /// Adds the time of day.
  void write(Json line);

 private:
  std::FILE* file_ = nullptr;
  bool own_ = false;
};

}  // namespace cbtm
