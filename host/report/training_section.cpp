#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/curves.h"
#include "report/line_chart.h"
#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

/// One line; `tokens_scale` stretches its tokens. Nothing is added where there are no points.
void add_line(std::vector<Series>& series, const ModelFacts& model, std::vector<Point> points, double tokens_scale,
              const std::string& label, Mark mark, bool shows_points) {
  if (points.empty()) return;
  for (Point& point : points) point.x *= tokens_scale;
  const std::string title = fmt::format("{}: {:.3f} at the end", model.name, points.back().y);
  series.push_back({label, title, std::move(points), mark, shows_points, {}});
}

LineChart chart_of(std::vector<Series> series, const std::string& description, const std::string& x_label,
                   const std::string& y_label) {
  LineChart chart{.description = description, .x_label = x_label, .y_label = y_label};
  chart.x = x_axis_of(series);
  chart.y = y_axis_of(series);
  chart.series = std::move(series);
  return chart;
}

/// The dense model, the mixture of experts and the experts. Expert curves are stretched k times: where all experts
/// together have seen as much.
std::vector<Series> branch_lines(const RunFacts& facts, std::vector<Point> (*curve)(const ModelFacts&),
                                 bool shows_points) {
  std::vector<Series> series;
  for (const ModelFacts& expert : facts.experts)
    add_line(series, expert, curve(expert), static_cast<double>(facts.k), fmt::format("{:03}", expert.cluster),
             Mark{expert.cluster}, shows_points);
  add_line(series, facts.mixture, curve(facts.mixture), 1, "mixture", Mark{Mark::kEnsemble}, shows_points);
  add_line(series, facts.baseline, curve(facts.baseline), 1, "dense", Mark{Mark::kDense}, shows_points);
  return series;
}

}  // namespace

std::string training_section(const RunFacts& facts) {
  std::string html;
  if (auto lines = branch_lines(facts, held_out_curve, true); !lines.empty())
    html += chart_of(std::move(lines), "Held-out loss of the dense model and of every expert over tokens",
                     "tokens (of all experts together)", "held-out loss, nats a token")
                .figure(
                    "Held-out loss during the branch. Each expert is measured on held-out documents of its own "
                    "cluster, the dense model on those of the whole corpus: compare how far lines fall, not how "
                    "high they lie. At the same place across, dense model and experts together have read as much; "
                    "an expert itself has read 1/k of it.");
  if (auto lines = branch_lines(facts, training_curve, false); !lines.empty())
    html += chart_of(std::move(lines), "Smoothed training loss of the dense model and of every expert over tokens",
                     "tokens (of all experts together)", "training loss, nats a token")
                .figure("Training loss, as means over a sixtieth of the run. With dropout where it was on.");
  std::vector<Series> seed;
  add_line(seed, facts.seed, training_curve(facts.seed), 1, "training", Mark{Mark::kEnsemble}, false);
  add_line(seed, facts.seed, held_out_curve(facts.seed), 1, "held out", Mark{Mark::kDense}, true);
  if (!seed.empty())
    html +=
        chart_of(std::move(seed), "Training and held-out loss of the seed over tokens", "tokens", "loss, nats a token")
            .figure("The seed, before branching.");
  return html.empty() ? "" : "<section id=\"training\"><h2>Training</h2>\n" + html + "</section>\n";
}

}  // namespace cbtm::report
