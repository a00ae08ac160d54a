#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/markup.h"
#include "study/page_sections.h"

namespace cbtm::study {
namespace {

std::string section(const char* id, const std::string& title, const std::string& html) {
  return fmt::format("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", id, title, html);
}

std::string escaped_text(const Json& entry) { return report::escape(system_text(entry)); }

/// One row of an entry: perplexity, each seed's, change against dense, each seed's.
void add_perplexities(const PageNumbers& numbers, const std::string& pointer, std::vector<std::string>& row) {
  row.push_back(numbers.perplexity(pointer + "/perplexity/mean"));
  row.push_back(numbers.perplexities(pointer + "/perplexity/by_seed"));
  row.push_back(numbers.change(pointer + "/against_dense"));
  row.push_back(numbers.changes(pointer + "/against_dense/by_seed"));
}

}  // namespace

std::string clusterings_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  const std::string learned = learned_clustering(study);
  std::vector<std::vector<std::string>> rows;
  for (const Json& clustering : study["config"]["clusterings"]) {
    const std::string kind = clustering["kind"];
    const Json& budgets = clustering["budgets"];
    for (const size_t i : entries_where(study, {.kind = "ensemble", .clustering = kind, .larger = false})) {
      const Json& entry = study["entries"][i];
      const std::string router = entry["router"];
      const bool all = entry["top_k"] == entry["k"];
      if (!all || entry["budget"] != budgets.back()) continue;  // of each clustering the largest budget
      const std::string pointer = entry_pointer(i);
      std::vector<std::string> row = {escaped_text(entry) + (kind == learned ? " (learned)" : ""),
                                      report::escape(router), numbers.count(pointer + "/budget")};
      add_perplexities(numbers, pointer, row);
      rows.push_back(std::move(row));
    }
  }
  if (rows.empty()) return "";
  return section(
      "clusterings", "Clusterings and routers",
      "<p>All experts mixed, at the largest budget of each clustering. Differences against the dense model of the same "
      "budget; brackets hold the 95 % interval over documents.</p>\n" +
          page_table("Clusterings and routers",
                     {"clusters", "router", "tokens", "perplexity", "by seed", "against dense", "by seed, %"}, rows));
}

std::string cost_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  std::vector<std::vector<std::string>> rows;
  for (const size_t i : entries_where(study, {.main = true})) {
    const Json& entry = study["entries"][i];
    const std::string pointer = entry_pointer(i);
    const std::string times = "times:/systems/" + entry["system"].get<std::string>();
    rows.push_back({escaped_text(entry), numbers.count(pointer + "/budget"), numbers.count(pointer + "/parameters"),
                    numbers.count(pointer + "/training_flops"), numbers.seconds(times + "/training_seconds"),
                    numbers.seconds(times + "/longest_seconds"), numbers.count(pointer + "/active_flops"),
                    numbers.perplexity(pointer + "/perplexity/mean"), numbers.change(pointer + "/against_dense")});
  }
  if (rows.empty()) return "";
  return section("cost", "What each system costs",
                 "<p>The main way of use of every system: by the tokens it was trained on, by the FLOPs of that, and "
                 "by the seconds "
                 "that it took here (one random seed; <em>longest</em>: if every expert had a device of its own). "
                 "Active FLOPs are "
                 "forward, per token, of all experts that are mixed.</p>\n" +
                     page_table("Costs and perplexities",
                                {"system", "tokens", "parameters", "training FLOPs", "seconds", "longest",
                                 "active FLOPs", "perplexity", "against dense"},
                                rows));
}

std::string matrix_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  std::string html;
  for (size_t m = 0; m < study["matrices"].size(); ++m) {
    const Json& matrix = study["matrices"][m];
    const std::string pointer = fmt::format("/matrices/{}", m);
    const size_t k = matrix["perplexity"].size();
    if (matrix["seed"] != study["config"]["first_seed"]) {
      html += fmt::format("<p>k = {}, seed {}: on {} clusters the best expert is the one trained for it.</p>\n",
                          numbers.whole(pointer + "/k"), numbers.whole(pointer + "/seed"),
                          numbers.whole(pointer + "/own_best"));
      continue;
    }
    html += fmt::format(
        "<h3>k = {}</h3><p>Perplexity of each expert (row) on held-out documents of each cluster "
        "(column). On {} clusters the best expert is the one trained for it.</p>\n",
        numbers.whole(pointer + "/k"), numbers.whole(pointer + "/own_best"));
    constexpr size_t kShown = 32;
    if (k > kShown) continue;
    std::string table = "<table class=\"heat " + std::string(k > 10 ? "several" : "few") + "\"><tbody>\n";
    for (size_t row = 0; row < k; ++row) {
      table += fmt::format("<tr><th scope=\"row\">{:03}</th>", row);
      for (size_t column = 0; column < k; ++column) {
        const double own = numbers.value(fmt::format("{}/perplexity/{}/{}", pointer, column, column));
        const std::string place = fmt::format("{}/perplexity/{}/{}", pointer, row, column);
        const double value = numbers.value(place);
        const double near = std::isfinite(value) && std::isfinite(own) ? std::clamp(2 - value / own, 0.0, 1.0) : 0;
        table += fmt::format("<td{} style=\"--near:{:.2f}\">{}</td>", row == column ? " class=\"best\"" : "", near,
                             numbers.perplexity(place));
      }
      table += "</tr>\n";
    }
    html += report::scroll_box("Perplexity of every expert on every cluster", table + "</tbody></table>");
  }
  return html.empty() ? "" : section("matrix", "Every expert on every cluster", html);
}

std::string tasks_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < study["tasks"].size(); ++i) {
    const Json& task = study["tasks"][i];
    const std::string pointer = fmt::format("/tasks/{}", i);
    rows.push_back({report::escape(task["task"].get<std::string>()), escaped_text(task),
                    numbers.whole(pointer + "/top_k"), numbers.plain(pointer + "/mean"),
                    numbers.estimate(pointer + "/against_dense"), numbers.plains(pointer + "/against_dense/by_seed")});
  }
  if (rows.empty()) return "";
  return section(
      "tasks", "Few-shot tasks",
      "<p>Accuracy by the labels' log-probability, mean over random seeds and draws of demonstrations, and "
      "its difference against dense with the 95 % interval over test lines.</p>\n" +
          page_table("Few-shot accuracies", {"task", "system", "mixed", "accuracy", "less dense", "by seed"}, rows));
}

std::string rates_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  if (study["config"]["learning_rates"].size() < 2) return "";
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < study["learning_rates"].size(); ++i) {
    const Json& sweep = study["learning_rates"][i];
    const std::string pointer = fmt::format("/learning_rates/{}", i);
    rows.push_back({report::escape(sweep["system"].get<std::string>()), numbers.plain(pointer + "/chosen"),
                    numbers.plains(pointer + "/rates"), numbers.perplexities(pointer + "/tune_perplexities")});
  }
  return section("rates", "Learning rates",
                 "<p>The same rates were tried for every system, and the one of the lowest perplexity on the tune "
                 "documents was taken for it.</p>\n" +
                     page_table("Learning rates", {"system", "chosen", "tried", "tune perplexities"}, rows));
}

std::string relations_section(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  std::string html =
      "<p>A finding holds if its 95 % interval over documents and every random seed lie on the claimed side of the "
      "bound, "
      "does not hold if all lie on the other side, and is undecided otherwise. A relation holds if all its findings "
      "hold and none is missing; one finding that does not hold decides against it.</p>\n";
  std::vector<std::vector<std::string>> overview;
  for (size_t i = 0; i < study["relations"].size(); ++i) {
    const Json& relation = study["relations"][i];
    const std::string pointer = fmt::format("/relations/{}", i);
    overview.push_back({numbers.whole(pointer + "/number"),
                        "<strong>" + report::escape(relation["verdict"].get<std::string>()) + "</strong>",
                        report::escape(relation["claim"].get<std::string>())});
    html += fmt::format("<h3>{}. {}</h3><p><strong>{}.</strong> {}</p>\n", numbers.whole(pointer + "/number"),
                        report::escape(relation["claim"].get<std::string>()),
                        report::escape(relation["verdict"].get<std::string>()),
                        report::escape(relation["rule"].get<std::string>()));
    std::vector<std::vector<std::string>> rows;
    for (size_t f = 0; f < relation["findings"].size(); ++f) {
      const Json& finding = relation["findings"][f];
      const std::string place = fmt::format("{}/findings/{}", pointer, f);
      const bool percent = finding.contains("percent");
      rows.push_back({report::escape(finding["text"].get<std::string>()),
                      percent ? numbers.change(place) : numbers.estimate(place),
                      percent ? numbers.changes(place + "/by_seed") : numbers.plains(place + "/by_seed"),
                      finding["claim"].get<std::string>() + " " +
                          (percent ? numbers.percent(place + "/bound") : numbers.plain(place + "/bound")),
                      report::escape(finding["verdict"].get<std::string>())});
    }
    if (!rows.empty())
      html += page_table("Findings", {"finding", "value", "by seed", "claimed", "verdict"}, rows,
                         TableOf::numbers_by_sentence);
    std::string missing;
    for (const Json& what : relation["missing"]) missing += "<li>" + report::escape(what.get<std::string>()) + "</li>";
    if (!missing.empty()) html += "<ul class=\"caution\">" + missing + "</ul>\n";
  }
  return section("relations", "The twelve relations",
                 page_table("Verdicts", {"", "verdict", "relation"}, overview, TableOf::texts) + html);
}

}  // namespace cbtm::study
