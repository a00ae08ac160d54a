#include "study/page_numbers.h"

#include <fmt/format.h>

#include <cmath>

#include "report/markup.h"

namespace cbtm::study {
namespace {

constexpr std::string_view kTimes = "times:";

std::string signed_text(double value, int digits) {
  const std::string text = fmt::format("{:.{}f}", std::abs(value), digits);
  const bool zero = text.find_first_not_of("0.") == std::string::npos;
  return (zero ? "±" : value < 0 ? "−" : "+") + text;
}

std::string plain_text(double value) {
  std::string text = report::format_number(value);
  if (text.starts_with("-")) text = "−" + text.substr(1);
  return text;
}

std::string change_text(double value) { return signed_text(value, 2); }
std::string percent_text(double value) { return signed_text(value, 2) + " %"; }
std::string seconds_text(double value) { return fmt::format("{:.0f}", value); }

}  // namespace

double PageNumbers::value(const std::string& pointer) const {
  const bool of_times = pointer.starts_with(kTimes);
  const Json::json_pointer place(of_times ? pointer.substr(kTimes.size()) : pointer);
  const Json& json = of_times ? times_ : study_;
  if (!json.contains(place)) return NAN;
  const Json& found = json.at(place);
  return found.is_number() ? found.get<double>() : NAN;
}

std::string PageNumbers::shown(const std::string& pointer, Format format) const {
  const double number = value(pointer);
  if (!std::isfinite(number)) return "–";
  return fmt::format("<span data-from=\"{}\">{}</span>", report::escape(pointer), format(number));
}

std::string PageNumbers::joined(const std::string& pointer, Format format) const {
  const Json::json_pointer place(pointer);
  if (!study_.contains(place) || !study_.at(place).is_array()) return "–";
  std::string html;
  for (size_t i = 0; i < study_.at(place).size(); ++i)
    html += (i == 0 ? "" : " / ") + shown(fmt::format("{}/{}", pointer, i), format);
  return html;
}

std::string PageNumbers::with_interval(const std::string& pointer, const char* name, Format format,
                                       Format of_bounds) const {
  if (!std::isfinite(value(pointer + "/" + name))) return "–";
  return fmt::format("{} [{}, {}]", shown(pointer + "/" + name, format), shown(pointer + "/low", of_bounds),
                     shown(pointer + "/high", of_bounds));
}

std::string PageNumbers::perplexity(const std::string& pointer) const {
  return shown(pointer, report::format_perplexity);
}
std::string PageNumbers::percent(const std::string& pointer) const { return shown(pointer, percent_text); }
std::string PageNumbers::plain(const std::string& pointer) const { return shown(pointer, plain_text); }
std::string PageNumbers::count(const std::string& pointer) const { return shown(pointer, report::format_short); }
std::string PageNumbers::whole(const std::string& pointer) const { return shown(pointer, report::format_whole); }
std::string PageNumbers::seconds(const std::string& pointer) const { return shown(pointer, seconds_text); }
std::string PageNumbers::change(const std::string& pointer) const {
  return with_interval(pointer, "percent", percent_text, change_text);
}
std::string PageNumbers::estimate(const std::string& pointer) const {
  return with_interval(pointer, "value", plain_text, plain_text);
}
std::string PageNumbers::perplexities(const std::string& pointer) const {
  return joined(pointer, report::format_perplexity);
}
std::string PageNumbers::changes(const std::string& pointer) const { return joined(pointer, change_text); }
std::string PageNumbers::plains(const std::string& pointer) const { return joined(pointer, plain_text); }

std::string page_table(const std::string& label, const std::vector<std::string>& columns,
                       const std::vector<std::vector<std::string>>& rows, TableOf cells) {
  const char* style = cells == TableOf::texts ? "texts" : cells == TableOf::numbers ? "numbers" : "numbers sentences";
  std::string html = fmt::format("<table class=\"{}\"><thead><tr>", style);
  for (const std::string& column : columns) html += "<th scope=\"col\">" + report::escape(column) + "</th>";
  html += "</tr></thead><tbody>\n";
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < row.size(); ++i)
      html += (i == 0 ? "<tr><th scope=\"row\">" : "<td>") + row[i] + (i == 0 ? "</th>" : "</td>");
    html += "</tr>\n";
  }
  return report::scroll_box(label, html + "</tbody></table>");
}

std::vector<size_t> entries_where(const Json& study, const EntryFilter& filter) {
  const auto fits = [](const Json& value, const auto& wanted) { return !wanted || value == *wanted; };
  std::vector<size_t> found;
  const Json& entries = study.at("entries");
  for (size_t i = 0; i < entries.size(); ++i) {
    const Json& entry = entries[i];
    if (fits(entry.at("kind"), filter.kind) && fits(entry.at("clustering"), filter.clustering) &&
        fits(entry.at("router"), filter.router) && fits(entry.at("k"), filter.k) &&
        fits(entry.at("budget"), filter.budget) && fits(entry.at("top_k"), filter.top_k) &&
        fits(entry.at("larger"), filter.larger) && fits(entry.at("main"), filter.main))
      found.push_back(i);
  }
  return found;
}

std::string entry_pointer(size_t entry) { return fmt::format("/entries/{}", entry); }

std::string learned_clustering(const Json& study) {
  for (const Json& clustering : study.at("config").at("clusterings"))
    if (const std::string kind = clustering.at("kind"); kind == "balanced" || kind == "unbalanced") return kind;
  return "";
}

std::string system_text(const Json& entry) {
  const std::string kind = entry.at("kind");
  std::string text = entry.at("larger").get<bool>() ? "larger " : "";
  if (kind == "dense") return text + "dense";
  const int64_t k = entry.at("k");
  return text + (kind == "moe" ? fmt::format("mixture of {} experts", k)
                               : fmt::format("{}, k = {}", entry.at("clustering").get<std::string>(), k));
}

}  // namespace cbtm::study
