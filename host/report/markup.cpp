#include "report/markup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/progress.h"

namespace cbtm::report {

std::string escape(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default:
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
          result += "\uFFFD";
        else
          result += c;
    }
  }
  return result;
}

std::string format_perplexity(double value) {
  if (!std::isfinite(value)) return "–";
  if (std::abs(value) >= 1e6) return fmt::format("{:.3g}", value);
  if (std::abs(value) >= 999.95) return fmt::format("{:.0f}", value);
  return fmt::format("{:#.4g}", value);
}

std::string format_short(double value) {
  if (!std::isfinite(value)) return "–";
  for (const auto& [unit, letter] : {std::pair{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}})
    if (std::abs(value) >= unit * 0.9995) return fmt::format("{:.3g}{}", value / unit, letter);
  return fmt::format("{:.3g}", value);
}

std::string format_whole(double value) {
  if (!std::isfinite(value)) return "–";
  if (std::abs(value) >= 1e15) return fmt::format("{:.3g}", value);  // no count of anything
  return format_count(static_cast<long long>(value));
}

std::string format_change(double ratio) {
  if (!std::isfinite(ratio)) return "–";
  const double percent = std::round((ratio - 1) * 1000) / 10;
  return fmt::format("{}{:.1f} %", percent < 0 ? "−" : percent > 0 ? "+" : "±", std::abs(percent));
}

std::string format_number(double value, int digits) {
  return std::isfinite(value) ? fmt::format("{:.{}g}", value, digits) : "–";
}

std::string readable_time(const std::string& time) {
  return time.size() == 20 && time[10] == 'T' ? time.substr(0, 10) + " " + time.substr(11, 5) + " UTC" : time;
}

std::string scroll_box(std::string_view label, std::string_view content) {
  return fmt::format("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}</div>\n", escape(label),
                     content);
}

std::string share_bar(double share) {
  const double width = std::isfinite(share) ? 100 * std::clamp(share, 0.0, 1.0) : 0;
  return fmt::format("<span class=\"bar\"><span style=\"width:{:.1f}%\"></span></span>", width);
}

}  // namespace cbtm::report
