#pragma once

#include <string>
#include <vector>

#include "report/axis.h"
#include "report/marks.h"

namespace cbtm::report {

struct Point {
  double x = 0;
  double y = 0;
};

struct Series {
  std::string label;  ///< short: stands at the line's end
  std::string title;  ///< said when it is pointed at
  std::vector<Point> points;
  Mark mark;
  bool shows_points = false;        ///< a shape at every point
  std::vector<std::string> values;  ///< beside the points, as many as these; or none
};

/// Lines over two axes, named at their ends rather than in a legend.
struct LineChart {
  std::string description;  ///< for those who cannot see it
  std::string x_label, y_label;
  Axis x, y;
  std::vector<Series> series;  ///< later ones are drawn over earlier ones; none is empty

  /// Inline SVG, `width` units of CSS pixels wide and at least `height` high: higher if the labels need it.
  std::string svg(int width, int height) const;
  /// <figure> with the chart drawn for a page and for a phone, of which style shows one.
  std::string figure(const std::string& caption_html) const;
};

/// The axes that just hold all points of some series: x ends where they end, y at a tick.
Axis x_axis_of(const std::vector<Series>& series);
Axis y_axis_of(const std::vector<Series>& series);

}  // namespace cbtm::report
