#include "cbtm/base/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <mutex>
#include <utility>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

bool quiet_flag = false;
std::mutex line_lock;  // threads that read and write files warn, too
bool live_line_open = false;

bool terminal() {
  static const bool is_terminal = ::isatty(STDERR_FILENO) != 0;
  return is_terminal;
}

void print_line(std::string_view line, bool live) {
  const std::lock_guard guard(line_lock);
  const std::string text = fmt::format("{}{}{}", live_line_open ? "\r\x1b[K" : "", line, live ? "" : "\n");
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
  live_line_open = live;
}

}  // namespace

void set_quiet(bool quiet) { quiet_flag = quiet; }
bool quiet() { return quiet_flag; }

void say(std::string_view line) {
  if (!quiet_flag) print_line(line, false);
}

void warn(std::string_view line) { print_line(fmt::format("cbtm: warning: {}", line), false); }

Progress::Progress(std::string label, double plain_interval_seconds)
    : label_(std::move(label)),
      plain_interval_seconds_(plain_interval_seconds),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (live_line_open) print_line("", false);
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::update(std::string_view text) {
  const double now = seconds();
  if (quiet_flag || now - last_shown_seconds_ < (terminal() ? 0.1 : plain_interval_seconds_)) return;
  last_shown_seconds_ = now;
  print_line(fmt::format("{}: {}", label_, text), terminal());
}

void Progress::finish(std::string_view text) {
  if (!quiet_flag) print_line(fmt::format("{}: {}", label_, text), false);
}

std::string format_duration(double seconds) {
  const long long whole = std::llround(std::max(0.0, seconds));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string format_count(long long count) {
  std::string digits = fmt::format("{}", count);
  for (ptrdiff_t place = static_cast<ptrdiff_t>(digits.size()) - 3; place > (count < 0 ? 1 : 0); place -= 3)
    digits.insert(static_cast<size_t>(place), ",");
  return digits;
}

}  // namespace cbtm
