#include "report/marks.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

namespace cbtm::report {
namespace {

constexpr int64_t kColours = 8;

/// Shapes about 2 wide around the origin, as steps of a path from its first point.
struct Step {
  double x, y;
};
constexpr Step kSquare[] = {{-0.9, -0.9}, {1.8, 0}, {0, 1.8}, {-1.8, 0}};
constexpr Step kTriangle[] = {{0, -1.2}, {1.2, 2.1}, {-2.4, 0}};
constexpr Step kDiamond[] = {{0, -1.3}, {1.3, 1.3}, {-1.3, 1.3}, {-1.3, -1.3}};
constexpr Step kPlus[] = {{-0.4, -1.2}, {0.8, 0},  {0, 0.8},  {0.8, 0},  {0, 0.8},  {-0.8, 0},
                          {0, 0.8},     {-0.8, 0}, {0, -0.8}, {-0.8, 0}, {0, -0.8}, {0.8, 0}};
constexpr Step kTriangleDown[] = {{0, 1.2}, {1.2, -2.1}, {-2.4, 0}};
constexpr Step kCross[] = {{0, -0.6},    {0.6, -0.6}, {0.6, 0.6},   {-0.6, 0.6}, {0.6, 0.6},   {-0.6, 0.6},
                           {-0.6, -0.6}, {-0.6, 0.6}, {-0.6, -0.6}, {0.6, -0.6}, {-0.6, -0.6}, {0.6, -0.6}};
constexpr Step kHourglass[] = {{-1.1, -1.2}, {2.2, 0}, {-2.2, 2.4}, {2.2, 0}};

template <size_t kSteps>
std::string path(double x, double y, double radius, const Step (&steps)[kSteps]) {
  std::string result = "M" + coordinate(x + radius * steps[0].x) + " " + coordinate(y + radius * steps[0].y) + "l";
  for (size_t i = 1; i < kSteps; ++i)
    result += (i > 1 ? " " : "") + coordinate(radius * steps[i].x) + " " + coordinate(radius * steps[i].y);
  return result + "z";
}

std::string circle(double x, double y, double radius) {
  const std::string r = coordinate(radius);
  return fmt::format("M{} {}a{} {} 0 1 0 {} 0a{} {} 0 1 0 {} 0z", coordinate(x - radius), coordinate(y), r, r,
                     coordinate(2 * radius), r, r, coordinate(-2 * radius));
}

}  // namespace

std::string Mark::classes() const {
  if (cluster == kDense) return "dense";
  if (cluster == kEnsemble) return "ensemble";
  return fmt::format("c{} d{}", cluster % kColours, cluster / kColours % 4);
}

std::string Mark::shape(double x, double y, double radius) const {
  // The shift by the number of rounds gives each colour another shape in each round.
  switch (cluster < 0 ? 0 : (cluster + cluster / kColours) % 8) {
    case 0: return circle(x, y, radius);
    case 1: return path(x, y, radius, kSquare);
    case 2: return path(x, y, radius, kTriangle);
    case 3: return path(x, y, radius, kDiamond);
    case 4: return path(x, y, radius, kPlus);
    case 5: return path(x, y, radius, kTriangleDown);
    case 6: return path(x, y, radius, kCross);
    default: return path(x, y, radius, kHourglass);
  }
}

std::string coordinate(double value) {
  const double tenth = std::round(value * 10) / 10;
  return fmt::format("{}", tenth == 0 ? 0.0 : tenth);
}

std::string cluster_key(int64_t cluster) {
  const Mark mark{cluster};
  return fmt::format(
      "<svg class=\"key\" viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" aria-hidden=\"true\"><path class=\"point "
      "{}\" d=\"{}\"/></svg>",
      mark.classes(), mark.shape(6, 6, 4));
}

}  // namespace cbtm::report
