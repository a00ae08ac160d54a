#include "report/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/error.h"
#include "report/markup.h"

namespace cbtm::report {
namespace {

constexpr double kLetterWidth = 7.2;  ///< of the 12 px text, about
constexpr double kLabelStep = 13;
constexpr size_t kLabelsMax = 72;

size_t letters(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// Moves rising places apart until neighbours are `step` from each other, inside [low, high] where there is room.
std::vector<double> spread(std::vector<double> places, double step, double low, double high) {
  for (size_t i = 0; i < places.size(); ++i) places[i] = std::max(places[i], i == 0 ? low : places[i - 1] + step);
  double limit = high;
  for (size_t i = places.size(); i-- > 0; limit = places[i] - step) places[i] = std::min(places[i], limit);
  return places;
}

std::pair<double, double> range(const std::vector<Series>& series, double Point::*coordinate) {
  double low = INFINITY, high = -INFINITY;
  for (const Series& one : series)
    for (const Point& point : one.points) {
      low = std::min(low, point.*coordinate);
      high = std::max(high, point.*coordinate);
    }
  return {low, high};
}

/// One chart of one size.
class Drawing {
 public:
  Drawing(const LineChart& chart, int width, int height) : chart_(chart), width_(width), height_(height) {
    size_t y_letters = 1;
    for (const Tick& tick : chart.y.ticks) y_letters = std::max(y_letters, letters(tick.label));
    size_t label_letters = 0;
    for (const Series& series : chart.series) label_letters = std::max(label_letters, letters(series.label));
    left_ = kLetterWidth * static_cast<double>(y_letters) + 12;
    right_ = width - kLetterWidth * static_cast<double>(label_letters) - 26;
    const double label_height = kLabelStep * static_cast<double>(std::min(chart.series.size(), kLabelsMax));
    height_ = std::max(height_, static_cast<int>(std::ceil(label_height + kTop + kBottom)));
    bottom_ = height_ - kBottom;
  }

  std::string draw() {
    svg_ = fmt::format("<svg class=\"chart{}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
                       crowded() ? " crowded" : "", width_, height_, escape(chart_.description));
    grid();
    for (const Series& series : chart_.series) line(series);
    end_labels();
    return svg_ + "</svg>";
  }

 private:
  static constexpr int kTop = 28, kBottom = 44;

  /// So many lines that they are drawn thin, and told apart by dash and by the shape at their label.
  bool crowded() const { return chart_.series.size() > 17; }
  double x(double value) const { return left_ + chart_.x.place(value) * (right_ - left_); }
  double y(double value) const { return bottom_ - chart_.y.place(value) * (bottom_ - kTop); }

  void text(double at_x, double at_y, const char* anchor, const std::string& words, const char* attribute = "") {
    svg_ += fmt::format("<text{} x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>", attribute, coordinate(at_x),
                        coordinate(at_y), anchor, escape(words));
  }

  void grid() {
    std::string lines;
    for (const Tick& tick : chart_.y.ticks) {
      const double place = y(tick.value);
      lines += fmt::format("M{} {}H{}", coordinate(left_), coordinate(place), coordinate(right_));
      text(left_ - 6, place + 4, "end", tick.label);
    }
    double free_from = 0;
    for (const Tick& tick : chart_.x.ticks) {
      const double place = x(tick.value);
      lines += fmt::format("M{} {}v5", coordinate(place), bottom_);
      const double half = kLetterWidth * static_cast<double>(letters(tick.label)) / 2;
      if (place - half < free_from) continue;  // no room: the tick stays without a name
      text(place, bottom_ + 18, "middle", tick.label);
      free_from = place + half + 6;
    }
    svg_ += fmt::format("<path class=\"grid\" d=\"{}\"/>", lines);
    text(left_, 14, "start", chart_.y_label);
    text(right_, height_ - 6, "end", chart_.x_label);
  }

  void line(const Series& series) {
    CBTM_ASSERT(!series.points.empty(), "a line has at least one point");
    std::string path;
    std::string shapes;
    for (const Point& point : series.points) {
      path += fmt::format("{}{} {}", path.empty() ? "M" : "L", coordinate(x(point.x)), coordinate(y(point.y)));
      if (series.shows_points && !crowded()) shapes += series.mark.shape(x(point.x), y(point.y), 3.5);
    }
    svg_ += fmt::format("<g><title>{}</title><path class=\"line {}\" d=\"{}\"/>", escape(series.title),
                        series.mark.classes(), path);
    if (!shapes.empty()) svg_ += fmt::format("<path class=\"point {}\" d=\"{}\"/>", series.mark.classes(), shapes);
    svg_ += "</g>";
    for (size_t i = 0; i < std::min(series.values.size(), series.points.size()); ++i) {
      const double place = x(series.points[i].x);
      const double half = kLetterWidth * static_cast<double>(letters(series.values[i])) / 2;
      text(std::clamp(place, left_ + half + 2, std::max(left_ + half + 2, right_ - half)), y(series.points[i].y) - 8,
           "middle", series.values[i], " class=\"value\"");
    }
  }

  /// Beside the end of each line: its shape and name, moved apart, with a hair line back where they had to move.
  void end_labels() {
    std::vector<size_t> order(chart_.series.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto end_of = [&](size_t i) { return chart_.series[i].points.back(); };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return y(end_of(a).y) < y(end_of(b).y); });
    if (order.size() > kLabelsMax) {  // the lines in between are named when pointed at
      std::vector<size_t> chosen;
      for (size_t i = 0; i < kLabelsMax; ++i) chosen.push_back(order[i * (order.size() - 1) / (kLabelsMax - 1)]);
      order = chosen;
    }
    std::vector<double> places;
    for (const size_t i : order) places.push_back(y(end_of(i).y));
    places = spread(places, kLabelStep, kTop, bottom_);
    std::string hairs;
    for (size_t i = 0; i < order.size(); ++i) {
      const Series& series = chart_.series[order[i]];
      const Point end = end_of(order[i]);
      hairs += fmt::format("M{} {}L{} {}", coordinate(x(end.x)), coordinate(y(end.y)), coordinate(right_ + 8),
                           coordinate(places[i]));
      svg_ += fmt::format("<path class=\"point {}\" d=\"{}\"/>", series.mark.classes(),
                          series.mark.shape(right_ + 13, places[i], 4));
      text(right_ + 21, places[i] + 4, "start", series.label);
    }
    svg_ += fmt::format("<path class=\"hair\" d=\"{}\"/>", hairs);
  }

  const LineChart& chart_;
  int width_, height_;
  double left_ = 0, right_ = 0;
  int bottom_ = 0;
  std::string svg_;
};

}  // namespace

std::string LineChart::svg(int width, int height) const { return Drawing(*this, width, height).draw(); }

std::string LineChart::figure(const std::string& caption_html) const {
  return fmt::format(
      "<figure><div class=\"wide\">{}</div><div class=\"narrow\">{}</div>\n<figcaption>{}</figcaption></figure>\n",
      svg(760, 340), svg(360, 280), caption_html);
}

Axis x_axis_of(const std::vector<Series>& series) {
  const auto [low, high] = range(series, &Point::x);
  return tight_axis(low, high);
}

Axis y_axis_of(const std::vector<Series>& series) {
  const auto [low, high] = range(series, &Point::y);
  return linear_axis(low, high);
}

}  // namespace cbtm::report
