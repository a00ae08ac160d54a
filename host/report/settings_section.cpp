#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "cbtm/base/progress.h"
#include "cbtm/model/families.h"
#include "report/json_lookup.h"
#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

/// Models of the same settings share a column.
struct Column {
  std::string name;
  Json settings;
  std::vector<const ModelFacts*> models;
};

std::vector<Column> columns_of(const RunFacts& facts) {
  std::vector<Column> columns;
  const auto add = [&](const ModelFacts& model, bool may_join) {
    if (!model.card) return;
    Json settings = model.card->settings;
    if (settings.is_object()) settings.erase("config");  // the model's shape has a line of its own
    for (Column& column : columns)
      if (may_join && column.models.front()->cluster >= 0 && column.settings == settings) {
        column.models.push_back(&model);
        return;
      }
    columns.push_back({model.name, settings, {&model}});
  };
  add(facts.seed, false);
  add(facts.baseline, false);
  add(facts.mixture, false);
  for (const ModelFacts& expert : facts.experts) add(expert, true);
  for (Column& column : columns)
    if (column.models.size() > 1) {
      const bool all = column.models.size() == facts.experts.size();
      column.name =
          all ? fmt::format("each of {} experts", column.models.size())
              : fmt::format("each of {} experts from {:03}", column.models.size(), column.models.front()->cluster);
    }
  return columns;
}

/// The sum over the column's models of what `number` gives for the training of each.
template <typename Number>
double sum(const Column& column, const Number& number) {
  double total = 0;
  for (const ModelFacts* model : column.models) total += number(model->training);
  return total;
}

std::string value_text(const Json& value) {
  if (value.is_null()) return "–";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number_integer() && std::abs(value.get<double>()) >= 1e5) return format_whole(value.get<double>());
  if (value.is_number_float()) return format_number(value.get<double>());
  if (value.is_array() && value.size() <= 16) {
    std::string list;
    for (const Json& member : value) list += (list.empty() ? "" : ", ") + value_text(member);
    return list;
  }
  if (value.is_object()) {
    std::string list;
    for (const auto& [name, member] : value.items())
      list += (list.empty() ? "" : "; ") + escape(name) + " " + value_text(member);
    return list;
  }
  return escape(value.is_string() ? value.get<std::string>() : value.dump());
}

/// "sequence_length" -> "sequence length".
std::string words(std::string name) {
  for (char& c : name)
    if (c == '_') c = ' ';
  return escape(name);
}

template <typename Cell>
std::string row(const std::string& name, const std::vector<Column>& columns, const Cell& cell) {
  std::string html = "<tr><th scope=\"row\">" + name + "</th>";
  for (const Column& column : columns) html += "<td>" + cell(column) + "</td>";
  return html + "</tr>\n";
}

std::string models_table(const RunFacts& facts) {
  const std::vector<Column> columns = columns_of(facts);
  if (columns.empty()) return "";
  std::string html = "<table class=\"numbers\"><thead><tr><td></td>";
  for (const Column& column : columns) html += "<th scope=\"col\">" + escape(column.name) + "</th>";
  html += "</tr></thead><tbody>\n";
  html += row("tokens trained on, together", columns, [](const Column& column) {
    return format_whole(sum(column, [](const TrainingSummary& training) { return known(training.tokens); }));
  });
  html += row("tokens a model", columns,
              [](const Column& column) { return format_whole(known(column.models.front()->training.tokens)); });
  html += row("tokens a step", columns, [](const Column& column) {
    return format_whole(number(column.settings, {"sequence_length"}) * number(column.settings, {"batch_sequences"}));
  });
  std::vector<std::string> names = {"steps",        "sequence_length",     "batch_sequences", "learning_rate",
                                    "warmup_steps", "final_learning_rate", "dropout"};
  for (const Column& column : columns)
    if (column.settings.is_object())
      for (const auto& [name, value] : column.settings.items())
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  for (const std::string& name : names)
    html += row(words(name), columns, [&](const Column& column) { return value_text(find(column.settings, {name})); });
  html += row("steps skipped (not finite), together", columns, [](const Column& column) {
    return format_whole(sum(column, [](const TrainingSummary& training) { return known(training.skipped_steps); }));
  });
  html += row("training time, together", columns, [](const Column& column) {
    const double seconds = sum(column, [](const TrainingSummary& training) { return training.training_seconds; });
    return std::isfinite(seconds) ? format_duration(seconds) : std::string("–");
  });
  return scroll_box("Settings of each model", html + "</tbody></table>");
}

std::string model_shape(const RunFacts& facts) {
  if (!facts.model) return "";
  const ModelSpec& model = *facts.model;
  const auto whole = [](int64_t value) { return format_whole(static_cast<double>(value)); };
  return fmt::format(
      "<p>Every model: {}, {} parameters ({} layers, hidden size {}, {} heads, feed-forward {}, vocabulary {}, {} "
      "positions).</p>\n",
      family_title(model), format_short(facts.parameters), whole(model.layers()), whole(model.hidden_size),
      whole(model.block(0).attention.heads), whole(model.block(0).feed_forward.width),
      whole(model.embedding.vocab_size), whole(model.embedding.max_length));
}

/// A JSON object as rows of names and values; what holds more than a handful of values is left out.
std::string object_table(const std::string& title, const Json& settings) {
  if (!settings.is_object() || settings.empty()) return "";
  std::string html;
  for (const auto& [name, value] : settings.items()) {
    if (name == "command" || name == "experts_present") continue;  // among the stages; among what is missing
    html += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", words(name), value_text(value));
  }
  return fmt::format("<h3>{}</h3>\n{}", title, scroll_box(title, "<table><tbody>" + html + "</tbody></table>"));
}

Json cluster_settings(const RunFacts& facts) {
  if (facts.run)
    for (const StageSummary& stage : facts.run->stages)
      if (stage.name == "cluster") return stage.settings;
  return nullptr;
}

}  // namespace

std::string settings_section(const RunFacts& facts) {
  const std::string html = model_shape(facts) + models_table(facts) +
                           object_table("Clustering", cluster_settings(facts)) +
                           object_table("Evaluation", facts.ensemble_settings().all);
  return html.empty() ? "" : "<section id=\"settings\"><h2>Settings</h2>\n" + html + "</section>\n";
}

}  // namespace cbtm::report
