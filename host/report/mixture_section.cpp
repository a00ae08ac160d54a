#include <fmt/format.h>

#include <cmath>

#include "cbtm/base/progress.h"
#include "cbtm/model/parameter_layout.h"
#include "report/line_chart.h"
#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

/// Points of a curve: means over equal stretches of the steps.
constexpr size_t kStretches = 60;

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

/// `value` of each mixture over tokens, smoothed.
std::vector<Series> lines(const std::vector<RoutingPoint>& points, double RoutingFacts::*value, double scale) {
  std::vector<Series> series;
  const size_t stretch = std::max<size_t>(1, (points.size() + kStretches - 1) / kStretches);
  for (const RoutingFacts& layer : points.back().layers) {
    Series line{.label = fmt::format("layer {:.0f}", layer.layer),
                .title = fmt::format("layer {:.0f}", layer.layer),
                .mark = Mark{static_cast<int64_t>(series.size())}};
    for (size_t begin = 0; begin < points.size(); begin += stretch) {
      double sum = 0, count = 0, tokens = 0;
      for (size_t i = begin; i < std::min(points.size(), begin + stretch); ++i)
        for (const RoutingFacts& facts : points[i].layers)
          if (facts.layer == layer.layer) {
            sum += facts.*value;
            ++count;
            tokens = points[i].tokens;
          }
      if (count > 0) line.points.push_back({tokens, scale * sum / count});
    }
    if (!line.points.empty()) series.push_back(std::move(line));
  }
  return series;
}

std::string chart(std::vector<Series> series, const std::string& description, const std::string& y_label,
                  const std::string& caption) {
  if (series.empty()) return "";
  LineChart chart{.description = description, .x_label = "tokens", .y_label = y_label};
  chart.x = x_axis_of(series);
  chart.y = y_axis_of(series);
  chart.series = std::move(series);
  return chart.figure(caption);
}

std::string routing_table(const std::vector<RoutingPoint>& points) {
  std::string rows;
  for (const RoutingFacts& layer : final_routing(points))
    rows += fmt::format(
        "<tr><th "
        "scope=\"row\">{:.0f}</th><td>{:.2f}</td><td>{:.2f}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.3f}</td>"
        "</tr>\n",
        layer.layer, layer.busiest, layer.idlest, percent(layer.dropped), percent(layer.without_expert),
        percent(layer.entropy), layer.balance_loss);
  return scroll_box("Routing of each layer",
                    "<table class=\"numbers\"><thead><tr><th scope=\"col\">layer</th><th scope=\"col\">busiest expert"
                    "</th><th scope=\"col\">idlest</th><th scope=\"col\">choices dropped</th><th scope=\"col\">tokens "
                    "without expert</th><th scope=\"col\">gate entropy</th><th scope=\"col\">balance loss</th></tr>"
                    "</thead><tbody>\n" +
                        rows + "</tbody></table>") +
         "<p>Means of the last tenth of the training. Load: choices before dropping, over an even share; entropy: over "
         "that of even gates.</p>\n";
}

/// A model's size and cost by formula, and its training as it was measured.
std::string cost_row(const std::string& name, const std::optional<ModelSpec>& spec, const ModelFacts& model) {
  const double tokens = known(model.training.tokens), seconds = model.training.training_seconds;
  std::string parameters = "–", active = "–", flops = "–";
  if (spec) {
    const ParameterLayout layout(*spec);
    const int64_t length = model.card ? model.card->sequence_length(spec->embedding.max_length) : 0;
    parameters = format_short(static_cast<double>(layout.parameter_count()));
    active = format_short(static_cast<double>(layout.active_parameter_count()));
    if (length > 0) flops = format_short(3 * spec->forward_flops_per_token(length));
  }
  return fmt::format(
      "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n", name,
      parameters, active, flops, format_short(tokens),
      std::isfinite(seconds) && seconds > 0 ? format_duration(seconds) : std::string("–"),
      std::isfinite(seconds) && seconds > 0 ? format_short(tokens / seconds) : std::string("–"));
}

}  // namespace

std::string mixture_section(const RunFacts& facts) {
  if (!facts.mixture.present()) return "";
  std::string html = "<section id=\"moe\"><h2>Mixture of experts</h2>\n";
  html += scroll_box("Cost of the two baselines",
                     "<table class=\"numbers\"><thead><tr><th scope=\"col\">model</th><th scope=\"col\">parameters</th>"
                     "<th scope=\"col\">of them for a token</th><th scope=\"col\">FLOPs a token in training</th><th "
                     "scope=\"col\">tokens</th><th scope=\"col\">time</th><th scope=\"col\">tokens a second</th></tr>"
                     "</thead><tbody>\n" +
                         cost_row("dense model", facts.model, facts.baseline) +
                         cost_row("mixture of experts", facts.mixture_model, facts.mixture) + "</tbody></table>");
  const std::vector<RoutingPoint>& points = facts.mixture.routing;
  if (!points.empty() && !points.back().layers.empty()) {
    html += routing_table(points);
    html += chart(lines(points, &RoutingFacts::dropped, 100), "Choices that were dropped, of each layer, over tokens",
                  "choices dropped, %", "Choices that found their expert full, of all choices in training.");
    html += chart(lines(points, &RoutingFacts::busiest, 1), "Load of the busiest expert of each layer over tokens",
                  "load of the busiest expert", "Choices of the busiest expert before dropping, over an even share.");
    html += chart(lines(points, &RoutingFacts::entropy, 1), "Gate entropy of each layer over tokens", "gate entropy",
                  "Mean entropy of a token's gates, over that of even gates: 0 is one expert alone.");
  }
  return html + "</section>\n";
}

}  // namespace cbtm::report
