#include "cbtm/report/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "report/cost_section.h"
#include "report/markup.h"
#include "report/page.h"
#include "report/run_facts.h"
#include "report/sections.h"

namespace cbtm {
namespace report {
namespace {

std::string header(const RunFacts& facts) {
  std::string finished;
  const RunSummary run = facts.run.value_or(RunSummary());
  for (const StageSummary& stage : run.stages) finished = std::max(finished, stage.finished);
  std::string html = "<header><h1>" + escape(facts.name) + "</h1>\n<p>Cluster-Branch-Train-Merge";
  if (facts.k > 0) html += fmt::format(" · {} experts", facts.k);
  if (facts.parameters > 0) html += fmt::format(" of {} parameters", format_short(facts.parameters));
  if (!run.version.empty()) html += " · cbtm " + escape(run.version);
  if (!finished.empty()) html += " · last stage done " + escape(readable_time(finished));
  return html + "</p></header>\n";
}

/// A section, or nothing and a note of what it could not be made of.
std::string guarded(const char* name, std::string (*section)(const RunFacts&), RunFacts& facts) {
  try {
    return section(facts);
  } catch (const std::exception& error) {
    facts.missing.push_back(
        fmt::format("the part '{}' is left out: what it is made from is damaged ({})", name, error.what()));
    return "";
  }
}

std::string page(RunFacts facts) {
  const std::pair<const char*, std::string (*)(const RunFacts&)> parts[] = {
      {"Corpus", corpus_section}, {"Training", training_section}, {"Mixture of experts", mixture_section},
      {"Matrix", matrix_section}, {"Top-k", sweep_section},       {"Budget", budget_section},
      {"Cost", cost_section},     {"Settings", settings_section}, {"Stages", stages_section}};
  std::vector<PageSection> sections;
  for (const auto& [name, section] : parts) sections.emplace_back(name, guarded(name, section, facts));
  const std::string headline = guarded("Headline", headline_section, facts);
  return html_page(facts.name, header(facts), headline + missing_section(facts), sections);
}

}  // namespace
}  // namespace report

void write_report(const RunDirectory& run) {
  if (!std::filesystem::is_directory(run.root()))
    fail("{}: there is no such run directory to report on", run.root().string());
  write_file_atomically(run.report(), report::page(report::read_run_facts(run)));
}

}  // namespace cbtm
