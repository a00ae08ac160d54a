#pragma once

#include <cstdint>
#include <string>

namespace cbtm::report {

/// How the report shows one thing among many: a colour, a shape and a dash, so that what a reader (or a printer)
/// without colours sees still differs. 64 pairs of colour and shape before one comes back; labels tell the rest apart.
struct Mark {
  int64_t cluster = 0;  ///< or one of the two below

  static constexpr int64_t kDense = -1;     ///< the text's own colour, thick
  static constexpr int64_t kEnsemble = -2;  ///< the accent colour

  /// CSS classes: colour ("c0" to "c7", "dense", "ensemble") and, on lines, dash ("d0" to "d3").
  std::string classes() const;
  /// SVG path data of the shape around (x, y), `radius` large.
  std::string shape(double x, double y, double radius) const;
};

/// A number of an SVG attribute, to a tenth: "12.5", "-3".
std::string coordinate(double value);

/// The mark of a cluster as a small inline picture, for tables and legends.
std::string cluster_key(int64_t cluster);

}  // namespace cbtm::report
