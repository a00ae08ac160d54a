#pragma once

#include <string>
#include <vector>

namespace cbtm::report {

struct Tick {
  double value = 0;
  std::string label;
};

/// One axis of a chart: the range it shows and the values it names.
struct Axis {
  double low = 0;
  double high = 1;
  bool logarithmic = false;
  std::vector<Tick> ticks;

  /// Where a value lies: 0 at low, 1 at high.
  double place(double value) const;
};

/// Widens [low, high] to multiples of a step of 1, 2 or 5 times a power of ten that gives about `tick_count` ticks.
Axis linear_axis(double low, double high, int tick_count = 5);
/// The same ticks over no more than [low, high], which must not be empty.
Axis tight_axis(double low, double high, int tick_count = 5);
/// Ticks at 1, 2 and 5 times powers of ten (powers of ten alone over three decades and more). Needs 0 < low.
Axis logarithmic_axis(double low, double high);
/// Logarithmic, with just these values, which must be positive and rise, as ticks: for numbers of experts.
Axis doubling_axis(const std::vector<Tick>& ticks);

}  // namespace cbtm::report
