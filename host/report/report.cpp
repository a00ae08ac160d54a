#include "cbtm/report/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "report/json_lookup.h"
#include "report/markup.h"
#include "report/page_style.h"
#include "report/run_facts.h"
#include "report/sections.h"

namespace cbtm {
namespace report {
namespace {

std::string header(const RunFacts& facts) {
  std::string finished;
  for (const Json& record : find(facts.run, {"stages"})) finished = std::max(finished, text(record, {"finished"}));
  std::string html = "<header><h1>" + escape(facts.name) + "</h1>\n<p>Cluster-Branch-Train-Merge";
  if (facts.k > 0) html += fmt::format(" · {} experts", facts.k);
  if (facts.parameters > 0) html += fmt::format(" of {} parameters", format_short(facts.parameters));
  if (const std::string version = text(facts.run, {"version"}); !version.empty()) html += " · cbtm " + escape(version);
  if (!finished.empty()) html += " · last stage done " + escape(readable_time(finished));
  return html + "</p></header>\n";
}

std::string page(const RunFacts& facts) {
  const std::pair<std::string, std::string> sections[] = {
      {"Corpus", corpus_section(facts)}, {"Training", training_section(facts)}, {"Matrix", matrix_section(facts)},
      {"Top-k", sweep_section(facts)},   {"Budget", budget_section(facts)},     {"Settings", settings_section(facts)},
      {"Stages", stages_section(facts)}};
  std::string body, links;
  for (const auto& [name, html] : sections) {
    if (html.empty()) continue;
    body += html;
    const size_t begin = html.find("id=\"") + 4;
    links += fmt::format("<a href=\"#{}\">{}</a>\n", html.substr(begin, html.find('"', begin) - begin), name);
  }
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>{} · cbtm</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<style>{}</style></head>\n<body>\n{}<main>\n{}{}<nav aria-label=\"Parts\">{}</nav>\n{}</main>\n</body></html>\n",
      escape(facts.name), kPageStyle, header(facts), headline_section(facts), missing_section(facts), links, body);
}

}  // namespace
}  // namespace report

void write_report(const RunDirectory& run) {
  if (!std::filesystem::is_directory(run.root()))
    fail("{}: there is no such run directory to report on", run.root().string());
  write_file_atomically(run.report(), report::page(report::read_run_facts(run)));
}

}  // namespace cbtm
