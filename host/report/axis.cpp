#include "report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "report/markup.h"

namespace cbtm::report {
namespace {

/// Ticks a step apart carry the decimals of the step; large ones are shortened.
std::string tick_label(double value, double step) {
  if (std::abs(value) >= 10'000 || step >= 1000) return format_short(value);
  const int decimals = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  const std::string label = fmt::format("{:.{}f}", std::abs(value), decimals);
  return value < -step / 2 ? "−" + label : label;
}

}  // namespace

double Axis::place(double value) const {
  if (high == low) return 0.5;
  if (logarithmic) return std::log(value / low) / std::log(high / low);
  return (value - low) / (high - low);
}

Axis linear_axis(double low, double high, int tick_count) {
  CBTM_ASSERT(std::isfinite(low) && std::isfinite(high) && low <= high, "a chart leaves out what is not finite");
  // So near that a step between them would be lost in rounding, or would have no room in a double.
  constexpr double kRounding = 1e-12, kTiny = 1e-200;
  if (high - low <= kRounding * std::max(std::abs(low), std::abs(high)) + kTiny) {
    low = high = low + (high - low) / 2;
    if (std::abs(low) <= kTiny) low = high = 0;
    const double margin = low == 0 ? 1 : std::abs(low) / 10;
    low -= margin;
    high += margin;
  }
  const double wanted = (high - low) / std::max(1, tick_count);
  const double power = std::pow(10, std::floor(std::log10(wanted)));
  const double step = power * (wanted <= power * (1 + 1e-9) ? 1
                               : wanted <= 2 * power        ? 2
                               : wanted <= 5 * power        ? 5
                                                            : 10);
  Axis axis;
  const double first = std::floor(low / step + 1e-9);
  const double last = std::ceil(high / step - 1e-9);
  for (double i = first; i <= last; ++i) axis.ticks.push_back({i * step, tick_label(i * step, step)});
  axis.low = first * step;
  axis.high = last * step;
  return axis;
}

Axis tight_axis(double low, double high, int tick_count) {
  Axis axis = linear_axis(low, high, tick_count);
  if (low == high) return axis;
  axis.low = low;
  axis.high = high;
  const double rounding = 1e-9 * (high - low);
  std::erase_if(axis.ticks,
                [&](const Tick& tick) { return tick.value < low - rounding || tick.value > high + rounding; });
  return axis;
}

Axis logarithmic_axis(double low, double high) {
  CBTM_ASSERT(low > 0 && low <= high && std::isfinite(high), "a logarithm needs positive numbers");
  Axis axis{.low = low, .high = high == low ? low * 10 : high, .logarithmic = true};
  const bool powers_only = axis.high / axis.low >= 1000;
  for (double power = std::pow(10, std::floor(std::log10(axis.low))); power <= axis.high; power *= 10)
    for (const double factor : {1, 2, 5}) {
      const double value = power * factor;
      if (powers_only && factor != 1) continue;
      if (value >= axis.low * (1 - 1e-9) && value <= axis.high * (1 + 1e-9))
        axis.ticks.push_back({value, value < 1000 ? format_number(value) : format_short(value)});
    }
  return axis;
}

Axis doubling_axis(const std::vector<Tick>& ticks) {
  CBTM_ASSERT(!ticks.empty() && ticks.front().value > 0, "an axis has at least one positive tick");
  return {.low = ticks.front().value, .high = ticks.back().value, .logarithmic = true, .ticks = ticks};
}

}  // namespace cbtm::report
