#include "report/scatter_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "report/marks.h"
#include "report/markup.h"

namespace cbtm::report {
namespace {

constexpr double kWidth = 640;
constexpr double kMargin = 14;
constexpr double kLabelWidth = 44, kLabelHeight = 22;  ///< of a number as a phone shows it; smaller on a page

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The place nearest below (x, y) where a label covers none of those already placed, which it joins.
std::pair<double, double> free_place(double x, double y, std::vector<std::pair<double, double>>& labels) {
  const auto covers = [&](const std::pair<double, double>& other) {
    return std::abs(other.first - x) < kLabelWidth && std::abs(other.second - y) < kLabelHeight;
  };
  for (auto other = std::find_if(labels.begin(), labels.end(), covers); other != labels.end();
       other = std::find_if(labels.begin(), labels.end(), covers))
    y = other->second + kLabelHeight + 0.5;  // the half: or rounding might let it cover the same one for ever
  labels.emplace_back(x, y);
  return labels.back();
}

}  // namespace

std::string scatter_svg(const std::vector<MapPoint>& points, const std::string& description) {
  double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
  for (const MapPoint& point : points) {
    low[0] = std::min(low[0], point.x);
    high[0] = std::max(high[0], point.x);
    low[1] = std::min(low[1], point.y);
    high[1] = std::max(high[1], point.y);
  }
  const double extent = std::max({high[0] - low[0], high[1] - low[1], 1e-9});
  const double scale = (kWidth - 2 * kMargin) / extent;
  const double width = points.empty() ? kWidth : std::max(kWidth / 2, (high[0] - low[0]) * scale + 2 * kMargin);
  const double height = points.empty() ? kMargin : std::max(kWidth / 3, (high[1] - low[1]) * scale + 2 * kMargin);
  const auto place = [&](const MapPoint& point) {
    return std::pair(width / 2 + (point.x - (low[0] + high[0]) / 2) * scale,
                     height / 2 - (point.y - (low[1] + high[1]) / 2) * scale);
  };
  struct Cluster {
    std::string shapes;
    std::vector<double> x, y;
  };
  std::map<int64_t, Cluster> clusters;
  for (const MapPoint& point : points) {
    const auto [x, y] = place(point);
    Cluster& cluster = clusters[point.cluster];
    cluster.shapes += Mark{point.cluster}.shape(x, y, 2.6);
    cluster.x.push_back(x);
    cluster.y.push_back(y);
  }
  std::string shapes, numbers;
  std::vector<std::pair<double, double>> labels;
  double lowest = height;
  for (const auto& [number, cluster] : clusters) {
    shapes += fmt::format("<path class=\"point {}\" d=\"{}\"><title>cluster {:03}</title></path>",
                          Mark{number}.classes(), cluster.shapes, number);
    const double middle = std::clamp(median(cluster.x), kLabelWidth / 2, width - kLabelWidth / 2);
    const auto [x, y] = free_place(middle, median(cluster.y) + 5, labels);
    numbers += fmt::format("<text class=\"halo\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{:03}</text>", coordinate(x),
                           coordinate(y), number);
    lowest = std::max(lowest, y + kMargin);
  }
  return fmt::format("<svg class=\"chart map\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">{}{}</svg>",
                     coordinate(width), coordinate(lowest), escape(description), shapes, numbers);
}

}  // namespace cbtm::report
