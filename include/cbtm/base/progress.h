#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace cbtm {

/// Messages for a person, on stderr. At a terminal the last line is redrawn. In a log, a plain line is printed at most
/// every `plain_interval_seconds`. --quiet hides everything but warnings and errors.
void set_quiet(bool quiet);
bool quiet();

/// Prints a line on stderr, unless --quiet. A live line is ended first.
void say(std::string_view line);
/// Prints "cbtm: warning: ..." on stderr, also with --quiet. A live line is ended first.
void warn(std::string_view line);

class Progress {
 public:
  explicit Progress(std::string label, double plain_interval_seconds = 10);
  ~Progress();
  /// Shows "label: text", unless the terminal was redrawn within the last 0.1 s (in a log: unless the interval has not
  /// passed).
  void update(std::string_view text);
  /// Shows the text in any case, and ends the line.
  void finish(std::string_view text);
  double seconds() const;

 private:
  std::string label_;
  double plain_interval_seconds_;
  std::chrono::steady_clock::time_point start_;
  double last_shown_seconds_ = -1e9;
};

/// "1:02:03" or "4:05".
std::string format_duration(double seconds);
/// "12,345,678".
std::string format_count(long long count);

}  // namespace cbtm
