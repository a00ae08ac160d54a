#include "cbtm/study/page.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "report/markup.h"
#include "report/page.h"
#include "study/page_sections.h"

namespace cbtm::study {
namespace {

std::string model_name(const Json& config) {
  return config.contains("preset") ? config["preset"].get<std::string>() : config["model"].get<std::string>();
}

std::string header(const Json& study) {
  const Json& config = study["config"];
  return fmt::format(
      "<header><h1>Study of Cluster-Branch-Train-Merge</h1>\n<p>model {} · {} random seeds · sequences of {} tokens, "
      "{} "
      "tokens a step · cbtm {}</p></header>\n",
      report::escape(model_name(config)), config["seeds"].get<int64_t>(), config["sequence"].get<int64_t>(),
      config["batch_tokens"].get<int64_t>(), report::escape(study["version"].get<std::string>()));
}

/// The best k of the largest budget, in a sentence.
std::string headline(const PageNumbers& numbers) {
  const Json& study = numbers.study();
  if (study["best_k"].empty()) return "<p class=\"verdict\">No budget has the cells of all k yet.</p>\n";
  const size_t last = study["best_k"].size() - 1;
  const Json& best = study["best_k"][last];
  const std::string budget = numbers.count(fmt::format("/best_k/{}/budget", last));
  if (best["k"] == 1)
    return fmt::format("<p class=\"verdict\">At {} tokens no number of clusters is better than the dense model.</p>\n",
                       budget);
  const std::vector<size_t> found = entries_where(study, {.kind = "ensemble",
                                                          .clustering = learned_clustering(study),
                                                          .k = best["k"].get<int64_t>(),
                                                          .budget = best["budget"].get<int64_t>(),
                                                          .larger = false,
                                                          .main = true});
  if (found.empty()) return "";
  return fmt::format(
      "<p class=\"verdict\">At {} tokens {} clusters are best: {} against the dense model of the same "
      "compute.</p>\n",
      budget, numbers.whole(fmt::format("/best_k/{}/k", last)),
      numbers.change(entry_pointer(found.front()) + "/against_dense"));
}

std::string missing_section(const Json& study) {
  if (study["missing"].empty()) return "";
  std::string items;
  for (const Json& name : study["missing"]) items += "<li>" + report::escape(name.get<std::string>()) + "</li>\n";
  return "<section id=\"missing\"><h2>What is missing</h2>\n<p>These cells are not there; the rest is shown.</p><ul>" +
         items + "</ul></section>\n";
}

std::string settings_section(const Json& study) {
  return "<section id=\"settings\"><h2>Configuration</h2>\n<pre>" + report::escape(study["config"].dump(1)) +
         "</pre></section>\n";
}

}  // namespace

std::string study_page(const Json& study, const Json& times) {
  const PageNumbers numbers(study, times);
  std::vector<report::PageSection> sections;
  if (!study["entries"].empty())
    sections = {{"Clusters", clusters_section(numbers)},
                {"Gain", gain_section(numbers)},
                {"Experts mixed", mixed_section(numbers)},
                {"Clusterings", clusterings_section(numbers)},
                {"Cost", cost_section(numbers)},
                {"Matrix", matrix_section(numbers)},
                {"Few-shot", tasks_section(numbers)},
                {"Learning rates", rates_section(numbers)},
                {"Twelve relations", relations_section(numbers)}};
  sections.emplace_back("Configuration", settings_section(study));
  return report::html_page("study", header(study), headline(numbers) + missing_section(study), sections);
}

}  // namespace cbtm::study
