#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "report/line_chart.h"
#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

constexpr double kGainMax = 1e9;  ///< percent; more is damage

/// Ensemble against dense in percent, over tokens, by number of experts.
std::map<int64_t, std::vector<Point>> gains(const RunFacts& facts) {
  std::map<int64_t, std::vector<Point>> lines;
  for (const GainPoint& point : facts.curve) {
    if (!(point.dense > 0)) continue;
    for (const auto& [mixed, perplexity] :
         {std::pair{int64_t{1}, point.top_1}, {int64_t{2}, point.top_2}, {std::max<int64_t>(1, facts.k), point.all}})
      if (const double gain = 100 * (perplexity / point.dense - 1); std::abs(gain) < kGainMax)
        lines[mixed].push_back({static_cast<double>(point.tokens), gain});
  }
  for (auto& [mixed, points] : lines)
    std::stable_sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
  return lines;
}

}  // namespace

std::string budget_section(const RunFacts& facts) {
  std::vector<Series> series;
  double low = INFINITY, high = 0;
  for (auto& [mixed, points] : gains(facts)) {
    low = std::min(low, points.front().x);
    high = std::max(high, points.back().x);
    const std::string name = top_k_name(mixed, facts.k);
    Series line{.label = name,
                .title = fmt::format("{}: {} against dense at the end", name, format_change(1 + points.back().y / 100)),
                .points = std::move(points),
                .mark = Mark{static_cast<int64_t>(series.size()) + 1},  // 0 has the colour of all
                .shows_points = true};
    if (mixed >= facts.k) line.mark = Mark{Mark::kEnsemble};
    series.push_back(std::move(line));
  }
  if (series.empty()) return "";
  const bool doubling = low >= 1 && high / low >= 10;
  series.insert(series.begin(), Series{.label = "dense",
                                       .title = "the dense model of the same tokens",
                                       .points = {{low, 0}, {high, 0}},
                                       .mark = Mark{Mark::kDense}});
  LineChart chart{.description = "Perplexity of the ensemble against the dense model over tokens of the branch",
                  .x_label = "tokens of the branch",
                  .y_label = "perplexity against dense, %"};
  chart.x = doubling ? logarithmic_axis(low, high) : tight_axis(0, high);
  chart.y = y_axis_of(series);
  chart.series = std::move(series);
  return "<section id=\"budget\"><h2>Gain against budget</h2>\n" +
         chart.figure(
             "Perplexity of the ensemble over that of the dense model which has read as many tokens, along the "
             "branch. Below zero the ensemble is better.") +
         "</section>\n";
}

std::string sweep_section(const RunFacts& facts) {
  if (facts.sweep.empty()) return "";
  const bool few = facts.sweep.size() < 2;
  Series ensemble{.label = "ensemble",
                  .title = "the ensemble by number of experts mixed",
                  .mark = Mark{Mark::kEnsemble},
                  .shows_points = true};
  std::vector<Tick> ticks;
  for (const SweepEntry& entry : facts.sweep) {
    ensemble.points.push_back({static_cast<double>(entry.top_k), entry.perplexity});
    ensemble.values.push_back(format_perplexity(entry.perplexity));
    ticks.push_back({static_cast<double>(entry.top_k), entry.top_k >= facts.k && facts.k > 1
                                                           ? fmt::format("all ({})", facts.k)
                                                           : std::to_string(entry.top_k)});
  }
  const double first = ensemble.points.front().x, last = ensemble.points.back().x;
  std::vector<Series> series;
  const auto level = [&](const std::string& name, double perplexity, Mark mark) {
    if (!std::isfinite(perplexity)) return;
    series.push_back({.label = name + " " + format_perplexity(perplexity),
                      .title = name,
                      .points = {{first, perplexity}, {last, perplexity}},
                      .mark = mark});
  };
  level("dense", facts.dense_perplexity(), Mark{Mark::kDense});
  level("mixture", facts.mixture_perplexity(), Mark{1});
  series.push_back(std::move(ensemble));
  LineChart chart{.description = "Perplexity of the ensemble by the number of experts mixed for a token",
                  .x_label = "experts mixed for a token",
                  .y_label = "perplexity"};
  chart.x = doubling_axis(ticks);
  chart.y = y_axis_of(series);
  chart.series = std::move(series);
  const std::string temperature = format_number(facts.ensemble_settings().router_temperature);
  return "<section id=\"sweep\"><h2>How many experts to mix</h2>\n" +
         chart.figure(fmt::format("Held-out perplexity over the number of experts, at router temperature {}{}.",
                                  escape(temperature), few ? "; only one number was evaluated" : "")) +
         "</section>\n";
}

}  // namespace cbtm::report
