#include "cbtm/base/numbers.h"

#include <charconv>
#include <cmath>

namespace cbtm {

std::optional<double> parse_number(std::string_view text) {
  // from_chars would take "inf" and "nan" too.
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string_view::npos) return std::nullopt;
  double value = 0;
  const char* begin = text.data() + (text.front() == '+' ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  if (end != text.data() + text.size() || (text.front() == '+' && (text.size() == 1 || text[1] == '-')))
    return std::nullopt;
  if (error == std::errc::result_out_of_range) {
    // Too small for a double is 0 in all that follows; too large is no number.
    const bool tiny = text.find("e-") != std::string_view::npos || text.find("E-") != std::string_view::npos;
    return tiny ? std::optional<double>(0.0) : std::nullopt;
  }
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_integer(std::string_view text) {
  if (text.empty()) return std::nullopt;
  int64_t whole = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), whole);
  if (error == std::errc() && end == text.data() + text.size()) return whole;
  double factor = 1;
  switch (text.back()) {
    case 'k':
    case 'K': factor = 1e3; break;
    case 'm':
    case 'M': factor = 1e6; break;
    case 'g':
    case 'G': factor = 1e9; break;
    case 't':
    case 'T': factor = 1e12; break;
    default: break;
  }
  if (factor != 1) text.remove_suffix(1);
  const std::optional<double> number = parse_number(text);
  if (!number) return std::nullopt;
  const double value = *number * factor;
  const double nearest = std::round(value);
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it a double is not every whole number
  // "1.1M" is 1100000.0000000001 as a product of doubles.
  if (std::abs(value) > kExact || std::abs(value - nearest) > 1e-9 * std::max(1.0, std::abs(value)))
    return std::nullopt;
  return static_cast<int64_t>(nearest);
}

std::optional<uint64_t> parse_unsigned(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace cbtm
