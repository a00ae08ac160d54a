#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <sstream>

#include "report/axis.h"
#include "report/curves.h"
#include "report/line_chart.h"
#include "report/marks.h"
#include "report/markup.h"
#include "report/scatter_chart.h"
#include "tests/report/well_formed.h"

namespace cbtm::report {
namespace {

std::string labels(const Axis& axis) {
  std::string all;
  for (const Tick& tick : axis.ticks) all += (all.empty() ? "" : " ") + tick.label;
  return all;
}

TEST_CASE("axes have round ticks around their values") {
  const Axis loss = linear_axis(3.62, 5.41);
  CHECK(labels(loss) == "3.5 4.0 4.5 5.0 5.5");
  CHECK(loss.place(loss.low) == 0);
  CHECK(loss.place(4.5) == doctest::Approx(0.5));
  CHECK(labels(linear_axis(0, 19'660'800)) == "0 5M 10M 15M 20M");
  CHECK(labels(linear_axis(-4.9, 6.8)) == "−5 0 5 10");
  const Axis tokens = tight_axis(0, 15'990'784);
  CHECK(labels(tokens) == "0 5M 10M 15M");
  CHECK(tokens.place(15'990'784) == 1);
  const Axis level = linear_axis(7, 7);
  CHECK(level.low < 7);
  CHECK(level.high > 7);
  CHECK(labels(logarithmic_axis(1, 60)) == "1 2 5 10 20 50");
  CHECK(labels(logarithmic_axis(1e5, 1e9)) == "100K 1M 10M 100M 1B");
  const Axis experts = doubling_axis({{1, "1"}, {2, "2"}, {4, "4"}, {16, "all"}});
  CHECK(experts.place(4) == doctest::Approx(0.5));
}

TEST_CASE("numbers are short and say when there are none") {
  CHECK(format_perplexity(4.13712) == "4.137");
  CHECK(format_perplexity(41.3712) == "41.37");
  CHECK(format_perplexity(4137.12) == "4137");
  CHECK(format_perplexity(99.9996) == "100.0");
  CHECK(format_perplexity(999.96) == "1000");
  CHECK(format_perplexity(NAN) == "–");
  CHECK(format_short(950) == "950");
  CHECK(format_short(19'660'800) == "19.7M");
  CHECK(format_short(999'999) == "1M");
  CHECK(format_change(0.9681) == "−3.2 %");
  CHECK(format_change(1.004) == "+0.4 %");
  CHECK(format_whole(1234567) == "1,234,567");
  CHECK(escape("<b a=\"1\">&'\x01") == "&lt;b a=&quot;1&quot;&gt;&amp;&#39;\uFFFD");
}

TEST_CASE("64 clusters have 64 marks") {
  std::set<std::string> marks;
  for (int64_t cluster = 0; cluster < 64; ++cluster) {
    const Mark mark{cluster};
    marks.insert(mark.classes().substr(0, 2) + mark.shape(0, 0, 10));
  }
  CHECK(marks.size() == 64);
}

TEST_CASE("a line chart draws every point inside, and keeps labels apart") {
  LineChart chart{.description = "a < b", .x_label = "x", .y_label = "y"};
  for (int64_t i = 0; i < 40; ++i)
    chart.series.push_back({.label = "line",
                            .title = "t & u",
                            .points = {{0, 1}, {1, 2}, {2, 3 + 0.001 * static_cast<double>(i)}},
                            .mark = Mark{i},
                            .shows_points = i == 0});
  chart.x = x_axis_of(chart.series);
  chart.y = y_axis_of(chart.series);
  const std::string svg = chart.svg(400, 200);
  CHECK(markup_fault("<html>" + svg + "</html>") == "");
  CHECK(occurrences(svg, "class=\"line ") == 40);
  CHECK(svg.find("a &lt; b") != std::string::npos);
  CHECK(svg.find("t &amp; u") != std::string::npos);
  double previous = -1000;
  size_t names = 0;
  for (size_t place = svg.find(">line</text>"); place != std::string::npos;
       place = svg.find(">line</text>", place + 1)) {
    const size_t y = svg.rfind(" y=\"", place) + 4;
    const double value = std::stod(svg.substr(y));
    CHECK(value - previous >= 12.9);  // labels are placed to a tenth
    previous = value;
    ++names;
  }
  CHECK(names == 40);

  chart.series.resize(1);
  const std::string one = chart.svg(400, 200);
  CHECK(occurrences(between(one, "class=\"point c0 d0\"", "/>"), "M") == 3);
  std::istringstream line(std::string(between(one, "class=\"line c0 d0\" d=\"", "\"/>")).substr(22));
  int points = 0;
  for (double x = 0, y = 0; line.ignore(1) && line >> x >> y; ++points) {
    CHECK((x > 0 && x < 400));
    CHECK((y > 0 && y < 200));
  }
  CHECK(points == 3);
}

TEST_CASE("a map holds every point once, at one scale for both axes") {
  std::vector<MapPoint> points;
  for (int i = 0; i < 30; ++i) points.push_back({0.1 * i, 0.01 * i, i % 3});
  const std::string svg = scatter_svg(points, "map");
  CHECK(markup_fault("<html>" + svg + "</html>") == "");
  CHECK(occurrences(svg, "M") == points.size());
  CHECK(occurrences(svg, "class=\"halo\"") == 3);
  CHECK(svg.find(">002</text>") != std::string::npos);
  CHECK(markup_fault("<html>" + scatter_svg({{1, 1, 0}}, "one") + "</html>") == "");
}

TEST_CASE("numbers on a map cover each other nowhere, however the clusters lie") {
  std::vector<MapPoint> points;
  for (int64_t cluster = 0; cluster < 100; ++cluster)
    for (int i = 0; i < 3; ++i)
      points.push_back({0.013 * static_cast<double>(cluster % 7), 0.0017 * static_cast<double>(cluster % 11), cluster});
  const std::string svg = scatter_svg(points, "map");
  std::vector<std::pair<double, double>> places;
  for (size_t place = svg.find("class=\"halo\""); place != std::string::npos;
       place = svg.find("class=\"halo\"", place + 1)) {
    const double x = std::stod(svg.substr(svg.find(" x=\"", place) + 4)),
                 y = std::stod(svg.substr(svg.find(" y=\"", place) + 4));
    for (const auto& [other_x, other_y] : places)
      CHECK((std::abs(x - other_x) >= 43.9 || std::abs(y - other_y) >= 21.9));
    places.emplace_back(x, y);
  }
  CHECK(places.size() == 100);
}

TEST_CASE("the training curve is means over stretches, without skipped steps") {
  ModelFacts model;
  model.metrics.push_back({0, NAN, 9});
  for (int step = 1; step <= 120; ++step) model.metrics.push_back({10.0 * step, static_cast<double>(step), NAN});
  model.metrics.push_back({1210, NAN, NAN});
  const std::vector<Point> curve = training_curve(model);
  REQUIRE(curve.size() == 60);
  CHECK(curve.front().x == 20);
  CHECK(curve.front().y == doctest::Approx(1.5));
  CHECK(curve.back().x == 1200);
  CHECK(curve.back().y == doctest::Approx(119.5));
  REQUIRE(held_out_curve(model).size() == 1);
  CHECK(held_out_curve(model).front().y == 9);
}

}  // namespace
}  // namespace cbtm::report
