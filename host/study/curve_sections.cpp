#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "report/line_chart.h"
#include "report/markup.h"
#include "study/page_sections.h"

namespace cbtm::study {
namespace {

using report::Axis;
using report::LineChart;
using report::Mark;
using report::Series;
using report::Tick;

std::vector<int64_t> integers(const Json& list) { return list.get<std::vector<int64_t>>(); }

std::string short_tokens(int64_t tokens) { return report::format_short(static_cast<double>(tokens)); }

/// The main entry of k clusters at a budget; k 1 is dense.
std::vector<size_t> learned(const Json& study, int64_t k, int64_t budget) {
  EntryFilter filter{.kind = k == 1 ? "dense" : "ensemble", .k = k, .budget = budget, .larger = false, .main = true};
  if (k > 1) filter.clustering = learned_clustering(study);
  return entries_where(study, filter);
}

Axis count_axis(const std::vector<int64_t>& counts) {
  std::vector<Tick> ticks;
  for (const int64_t count : counts) ticks.push_back({static_cast<double>(count), std::to_string(count)});
  return report::doubling_axis(ticks);
}

std::string section(const char* id, const std::string& title, const std::string& html) {
  return fmt::format("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", id, title, html);
}

/// The k that is marked at a budget, and where it stands in best_k.
const Json* best_at(const Json& study, int64_t budget, size_t& index) {
  for (index = 0; index < study.at("best_k").size(); ++index)
    if (study["best_k"][index].at("budget") == budget) return &study["best_k"][index];
  return nullptr;
}

std::string figure(LineChart chart, const std::string& caption) {
  if (chart.series.empty()) return "";
  chart.y = report::y_axis_of(chart.series);
  return chart.figure(caption);
}

}  // namespace

std::string clusters_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  const std::vector<int64_t> budgets = integers(study["config"]["budgets"]), all_k = integers(study["config"]["k"]);
  LineChart chart{.description = "Perplexity over the number of clusters, a line for each budget",
                  .x_label = "clusters, and so experts (1: dense)",
                  .y_label = "perplexity"};
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> columns = {"k"};
  for (const int64_t k : all_k) rows.push_back({k == 1 ? "1 (dense)" : std::to_string(k)});
  for (size_t b = 0; b < budgets.size(); ++b) {
    Series line{.label = short_tokens(budgets[b]),
                .title = fmt::format("{} tokens", short_tokens(budgets[b])),
                .mark = Mark{static_cast<int64_t>(b)},
                .shows_points = true};
    size_t place = 0;
    const Json* best = best_at(study, budgets[b], place);
    columns.push_back(short_tokens(budgets[b]) + " tokens");
    columns.push_back("against dense, %");
    for (size_t i = 0; i < all_k.size(); ++i) {
      const std::vector<size_t> found = learned(study, all_k[i], budgets[b]);
      if (found.empty()) {
        rows[i].insert(rows[i].end(), {"–", "–"});
        continue;
      }
      const std::string pointer = entry_pointer(found.front());
      const bool is_best = best != nullptr && best->at("k") == all_k[i];
      const double perplexity = numbers.value(pointer + "/perplexity/mean");
      if (std::isfinite(perplexity)) {  // a training may have diverged
        line.points.push_back({static_cast<double>(all_k[i]), perplexity});
        line.values.push_back(is_best ? "best " + report::format_perplexity(perplexity) : "");
      }
      const std::string shown = numbers.perplexity(pointer + "/perplexity/mean");
      rows[i].push_back(is_best ? "<strong>" + shown + "</strong>" : shown);
      rows[i].push_back(all_k[i] == 1 ? "–" : numbers.change(pointer + "/against_dense"));
    }
    if (!line.points.empty()) chart.series.push_back(std::move(line));
  }
  if (chart.series.empty()) return "";
  chart.x = count_axis(all_k);
  std::string html =
      figure(chart,
             "Held-out perplexity of all experts together, geometric mean over the random seeds. The best k of "
             "each budget is named.");
  html += page_table("Perplexity by number of clusters and budget", columns, rows);
  std::string best;
  for (size_t i = 0; i < study["best_k"].size(); ++i)
    best += fmt::format(
        "<li>{} tokens: k = {}; by random seed {}</li>\n", numbers.count(fmt::format("/best_k/{}/budget", i)),
        numbers.whole(fmt::format("/best_k/{}/k", i)), numbers.plains(fmt::format("/best_k/{}/by_seed", i)));
  html += "<p>Best k:</p><ul>" + best + "</ul>\n";
  if (study.contains("fit"))
    html += fmt::format(
        "<p>Fit: k = 2^(a + b log2(tokens)) with a = {} and b = {} [{}, {}], from {} to {} tokens.</p>\n",
        numbers.plain("/fit/intercept"), numbers.plain("/fit/slope"), numbers.plain("/fit/slope_low"),
        numbers.plain("/fit/slope_high"), numbers.count("/fit/tokens_min"), numbers.count("/fit/tokens_max"));
  return section("clusters", "Perplexity against the number of clusters", html);
}

std::string gain_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  const std::vector<int64_t> budgets = integers(study["config"]["budgets"]);
  LineChart chart{.description = "Perplexity against the dense model over the budget, a line for each k",
                  .x_label = "tokens after branching",
                  .y_label = "perplexity against dense, %"};
  Series dense{.label = "dense", .title = "the dense model of the same tokens", .mark = Mark{Mark::kDense}};
  for (const int64_t budget : budgets) dense.points.push_back({static_cast<double>(budget), 0});
  for (const int64_t k : integers(study["config"]["k"])) {
    if (k == 1) continue;
    Series line{.label = fmt::format("k = {}", k),
                .title = fmt::format("{} experts", k),
                .mark = Mark{static_cast<int64_t>(chart.series.size())},
                .shows_points = true};
    for (const int64_t budget : budgets) {
      const std::vector<size_t> found = learned(study, k, budget);
      if (found.empty()) continue;
      const double change = numbers.value(entry_pointer(found.front()) + "/against_dense/percent");
      if (std::isfinite(change)) line.points.push_back({static_cast<double>(budget), change});
    }
    if (!line.points.empty()) chart.series.push_back(std::move(line));
  }
  if (chart.series.empty()) return "";
  chart.series.insert(chart.series.begin(), dense);
  const double low = static_cast<double>(budgets.front()), high = static_cast<double>(budgets.back());
  chart.x = high > low ? report::logarithmic_axis(low, high) : report::tight_axis(0, high);
  return section("gain", "Gain against budget",
                 figure(chart,
                        "Perplexity of all experts together over that of the dense model of the same tokens. "
                        "Below zero the experts are better. The numbers stand in the table above."));
}

std::string mixed_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  const int64_t budget = integers(study["config"]["budgets"]).back();
  LineChart chart{.description = "Perplexity over the number of experts that are mixed, a line for each k",
                  .x_label = "experts mixed for a token",
                  .y_label = "perplexity"};
  std::vector<int64_t> counts;
  std::vector<std::vector<std::string>> rows;
  for (const int64_t k : integers(study["config"]["k"])) {
    if (k == 1) continue;
    Series line{.label = fmt::format("k = {}", k),
                .title = fmt::format("{} experts", k),
                .mark = Mark{static_cast<int64_t>(chart.series.size())},
                .shows_points = true};
    for (const size_t entry : entries_where(study, {.kind = "ensemble",
                                                   .clustering = learned_clustering(study),
                                                   .router = "tfidf",
                                                   .k = k,
                                                   .budget = budget,
                                                   .larger = false})) {
      const int64_t top_k = study["entries"][entry]["top_k"];
      const std::string pointer = entry_pointer(entry);
      const double perplexity = numbers.value(pointer + "/perplexity/mean");
      counts.push_back(top_k);
      if (std::isfinite(perplexity)) line.points.push_back({static_cast<double>(top_k), perplexity});
      rows.push_back({fmt::format("k = {}", k), numbers.whole(pointer + "/top_k"),
                      numbers.perplexity(pointer + "/perplexity/mean"), numbers.change(pointer + "/against_dense"),
                      numbers.plains(pointer + "/temperatures")});
    }
    if (!line.points.empty()) chart.series.push_back(std::move(line));
  }
  if (chart.series.empty()) return "";
  const std::vector<size_t> dense = learned(study, 1, budget);
  std::sort(counts.begin(), counts.end());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  const double perplexity = dense.empty() ? NAN : numbers.value(entry_pointer(dense.front()) + "/perplexity/mean");
  if (std::isfinite(perplexity)) {
    chart.series.insert(chart.series.begin(), Series{.label = "dense",
                                                     .title = "the dense model",
                                                     .points = {{static_cast<double>(counts.front()), perplexity},
                                                                {static_cast<double>(counts.back()), perplexity}},
                                                     .mark = Mark{Mark::kDense}});
  }
  chart.x = count_axis(counts);
  return section(
      "mixed", "How many experts to mix",
      figure(chart, fmt::format("By tf-idf, {} tokens. The router's temperature is chosen for each number of "
                                "experts on the tune documents.",
                                short_tokens(budget))) +
          page_table("Perplexity by experts mixed",
                     {"experts", "mixed", "perplexity", "against dense", "temperature by seed"}, rows));
}

}  // namespace cbtm::study
