#include "serve/request_log.h"

#include <ctime>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {

RequestLog::RequestLog(const std::filesystem::path& file) {
  if (file.empty()) {
    file_ = quiet() ? nullptr : stderr;
    return;
  }
  file_ = std::fopen(file.c_str(), "ae");
  if (file_ == nullptr) fail("{}: cannot be written: {}", file.string(), errno_text());
  own_ = true;
}

RequestLog::~RequestLog() {
  if (own_) std::fclose(file_);
}

void RequestLog::write(Json line) {
  if (file_ == nullptr) return;
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  line["time"] = fmt::format("{}.{:03}Z", text, milliseconds);
  fmt::print(file_, "{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(file_);
}

}  // namespace cbtm
