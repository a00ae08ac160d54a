#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cbtm::report {

struct MapPoint {
  double x = 0;
  double y = 0;
  int64_t cluster = 0;
};

/// A map of points as inline SVG: one scale for both axes, so that distances can be compared; each cluster with its
/// mark, and its number at the middle (the median) of its points. `description` is for those who cannot see it.
std::string scatter_svg(const std::vector<MapPoint>& points, const std::string& description);

}  // namespace cbtm::report
