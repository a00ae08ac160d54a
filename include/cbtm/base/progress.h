#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace cbtm {

/// What a person watches on stderr. At a terminal the last line is redrawn in place; elsewhere (logs) a plain line is
/// printed at most every `plain_interval_seconds`. --quiet silences all but warnings and errors.
void set_quiet(bool quiet);
bool quiet();

/// A line for the person on stderr, unless --quiet. Ends a live line first.
void say(std::string_view line);
/// "cbtm: warning: ..." on stderr, always. Ends a live line first.
void warn(std::string_view line);

class Progress {
 public:
  explicit Progress(std::string label, double plain_interval_seconds = 10);
  ~Progress();
  /// Shows "label: text" now if the terminal was not redrawn within 0.1 s (or the plain interval has passed).
  void update(std::string_view text);
  /// Shows it in any case and ends the line.
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
