#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/progress.h"
#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

struct Stage {
  std::string name;
  std::string finished, version;
  double seconds = 0;
  double longest = 0;  ///< of the experts, which may have run beside each other
  std::string command;
  int64_t count = 1;
};

/// In the order in which they finished, the experts as one.
std::vector<Stage> stages_of(const RunFacts& facts) {
  std::vector<Stage> stages;
  if (!facts.run) return stages;
  for (const StageSummary& stage : facts.run->stages)
    stages.push_back({stage.name, stage.finished, stage.version, stage.seconds, stage.seconds, stage.command});
  std::stable_sort(stages.begin(), stages.end(),
                   [](const Stage& a, const Stage& b) { return a.finished < b.finished; });
  std::vector<Stage> joined;
  for (const Stage& stage : stages) {
    const auto experts = std::find_if(joined.begin(), joined.end(), [&](const Stage& other) {
      return other.name.starts_with("expert/") && stage.name.starts_with("expert/");
    });
    if (experts == joined.end()) {
      joined.push_back(stage);
      continue;
    }
    experts->seconds += stage.seconds;
    experts->longest = std::max(experts->longest, stage.longest);
    experts->finished = stage.finished;
    if (experts->version.find(stage.version) == std::string::npos) experts->version += ", " + stage.version;
    ++experts->count;
  }
  return joined;
}

/// Commands as typed, each once, in order.
std::string commands(const RunFacts& facts) {
  std::vector<std::string> seen;
  std::string html;
  std::vector<std::pair<std::string, std::string>> records;
  if (facts.run)
    for (const StageSummary& stage : facts.run->stages) records.emplace_back(stage.finished, stage.command);
  std::stable_sort(records.begin(), records.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  records.emplace_back("", facts.ensemble_settings().command);
  for (const auto& [finished, command] : records) {
    if (command.empty() || std::find(seen.begin(), seen.end(), command) != seen.end()) continue;
    seen.push_back(command);
    html += "<pre><code>" + escape(command) + "</code></pre>\n";
  }
  return html.empty() ? "" : "<h3>Commands, as typed</h3>\n" + html;
}

}  // namespace

std::string stages_section(const RunFacts& facts) {
  const std::vector<Stage> stages = stages_of(facts);
  if (stages.empty()) return "";
  double total = 0, longest = 0;
  for (const Stage& stage : stages) {
    total += stage.seconds;
    longest = std::max(longest, stage.seconds);
  }
  std::string rows;
  for (const Stage& stage : stages) {
    std::string name = stage.name;
    if (stage.count > 1) name = fmt::format("{} experts (the longest {})", stage.count, format_duration(stage.longest));
    rows += fmt::format(
        "<tr><th scope=\"row\">{}</th><td class=\"right\">{}</td><td "
        "class=\"share\">{}</td><td>{}</td><td>{}</td></tr>\n",
        escape(name), format_duration(stage.seconds), share_bar(longest > 0 ? stage.seconds / longest : 0),
        escape(readable_time(stage.finished)), escape(stage.version));
  }
  rows +=
      fmt::format("<tr><th scope=\"row\">together</th><td class=\"right\">{}</td><td></td><td></td><td></td></tr>\n",
                  format_duration(total));
  return "<section id=\"stages\"><h2>Stages</h2>\n" +
         scroll_box(
             "Stages and their time",
             "<table><thead><tr><th scope=\"col\">stage</th><th scope=\"col\" class=\"right\">time</th><th "
             "scope=\"col\"></th><th scope=\"col\">finished</th><th scope=\"col\">cbtm</th></tr></thead><tbody>\n" +
                 rows + "</tbody></table>") +
         commands(facts) + "</section>\n";
}

}  // namespace cbtm::report
