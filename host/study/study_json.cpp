#include "cbtm/study/study_json.h"

#include <algorithm>
#include <cmath>

#include "cbtm/study/relations.h"
#include "study/recipe.h"
#include "study/task_comparison.h"

namespace cbtm::study {
namespace {

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

double percent(double nats) { return 100 * std::expm1(nats); }

/// A difference in nats per token as a change of perplexity in percent.
Json percent_json(const Estimate& estimate) {
  Json json = {{"percent", percent(estimate.value)},
               {"low", percent(estimate.low)},
               {"high", percent(estimate.high)},
               {"by_seed", Json::array()}};
  for (const double value : estimate.by_seed) json["by_seed"].push_back(percent(value));
  return json;
}

Json plain_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}, {"by_seed", estimate.by_seed}};
}

void put_system(Json& json, const System& system) {
  json["system"] = system.name();
  json["kind"] = kind_name(system.kind);
  json["larger"] = system.larger;
  json["clustering"] = system.kind == SystemKind::ensemble ? Json(clustering_name(system.clustering)) : Json();
  json["k"] = system.k;
  json["budget"] = system.budget;
}

Json entry_json(const Results& results, const Entry& entry) {
  Json json = {{"router", entry.router},
               {"top_k", entry.top_k},
               {"main", entry.is_main},
               {"learning_rate", entry.learning_rate},
               {"seeds", entry.seeds},
               {"temperatures", Json::array()},
               {"parameters", entry.parameters},
               {"training_flops", entry.training_flops},
               {"active_flops", entry.active_flops},
               {"perplexity", {{"mean", entry.mean_perplexity(results.bootstrap())}, {"by_seed", Json::array()}}}};
  put_system(json, entry.system);
  for (const double temperature : entry.temperatures) json["temperatures"].push_back(number_or_null(temperature));
  for (size_t seed = 0; seed < entry.seeds.size(); ++seed)
    json["perplexity"]["by_seed"].push_back(entry.perplexity(results.bootstrap(), seed));
  const Entry* dense = results.dense(entry.system.budget);
  if (dense != nullptr && dense != &entry)
    if (const auto difference = results.contrast({{1, &entry}, {-1, dense}}))
      json["against_dense"] = percent_json(*difference);
  return json;
}

Json finding_json(const Finding& finding) {
  const bool is_percent = finding.unit == Unit::percent;
  Json json = is_percent ? percent_json(finding.estimate) : plain_json(finding.estimate);
  json["text"] = finding.text;
  json["claim"] = finding.claim == Claim::below ? "below" : "above";
  json["bound"] = is_percent ? percent(finding.bound) : finding.bound;
  json["verdict"] = verdict_name(finding.verdict);
  return json;
}

Json relation_json(const Relation& relation) {
  Json json = {{"number", relation.number}, {"claim", relation.claim},
               {"rule", relation.rule},     {"verdict", verdict_name(relation.verdict)},
               {"findings", Json::array()}, {"missing", relation.missing}};
  for (const Finding& finding : relation.findings) json["findings"].push_back(finding_json(finding));
  return json;
}

Json fit_json(const Fit& fit) {
  return {{"intercept", fit.intercept},   {"slope", fit.slope},           {"slope_low", fit.slope_low},
          {"slope_high", fit.slope_high}, {"tokens_min", fit.tokens_min}, {"tokens_max", fit.tokens_max},
          {"k_min", fit.k_min},           {"k_max", fit.k_max},           {"parameters", fit.parameters}};
}

Json tasks_json(const Results& results) {
  Json list = Json::array();
  const std::vector<TaskEntry> entries = task_entries(results);
  for (const TaskEntry& entry : entries) {
    Json json = {{"task", entry.task},   {"router", entry.router},         {"top_k", entry.top_k},
                 {"seeds", entry.seeds}, {"accuracies", entry.accuracies}, {"mean", entry.mean()}};
    put_system(json, entry.system);
    for (const TaskEntry& dense : entries)
      if (dense.task == entry.task && dense.system.kind == SystemKind::dense && entry.system.kind != SystemKind::dense)
        if (const auto difference = accuracy_difference(results.config(), entry, dense))
          json["against_dense"] = plain_json(*difference);
    list.push_back(std::move(json));
  }
  return list;
}

/// Perplexity of each expert on each cluster, of every k and random seed at the largest budget. Clusters of different
/// seeds are different ones, so there is no mean of them.
Json matrices_json(const Results& results) {
  Json list = Json::array();
  for (const CellResult& cell : results.cells()) {
    const System& system = cell.cell.system;
    if (system.larger || system.kind != SystemKind::ensemble || system.clustering != results.learned_kind() ||
        system.budget != results.config().axis.budgets.back() || cell.matrix.empty())
      continue;
    const Entry* entry = results.main(system);
    if (entry == nullptr || entry->learning_rate != cell.cell.learning_rate) continue;
    Json json = {{"seed", cell.cell.seed}, {"k", system.k}, {"perplexity", Json::array()}};
    int64_t own_best = 0;
    for (size_t cluster = 0; cluster < cell.matrix.size(); ++cluster) {
      Json row = Json::array();
      for (const double value : cell.matrix[cluster]) row.push_back(number_or_null(value));
      json["perplexity"].push_back(row);
      const double own = cell.matrix[cluster][cluster];
      own_best += std::all_of(cell.matrix.begin(), cell.matrix.end(),
                              [&](const auto& expert) { return !(expert[cluster] < own); }) &&
                          std::isfinite(own)
                      ? 1
                      : 0;
    }
    json["own_best"] = own_best;
    list.push_back(std::move(json));
  }
  return list;
}

Json sweeps_json(const Results& results) {
  Json list = Json::array();
  for (const Results::Sweep& sweep : results.sweeps()) {
    Json json = {{"chosen", sweep.chosen}, {"rates", Json::array()}, {"tune_perplexities", Json::array()}};
    put_system(json, sweep.system);
    for (const auto& [rate, loss] : sweep.losses) {
      json["rates"].push_back(rate);
      json["tune_perplexities"].push_back(std::exp(loss));
    }
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace

Json study_json(const Results& results, const std::vector<std::string>& missing) {
  Json json = {{"format", 1},
               {"version", CBTM_VERSION},
               {"config", config_json(results.config())},
               {"missing", missing},
               {"cells", Json::array()},
               {"entries", Json::array()},
               {"best_k", Json::array()},
               {"relations", Json::array()}};
  for (const CellResult& cell : results.cells()) {
    Json one = cell_result_json(cell);
    one.erase("documents");  // of all cells the same
    json["cells"].push_back(std::move(one));
  }
  for (const Relation& relation : relations_of(results)) json["relations"].push_back(relation_json(relation));
  if (results.empty()) return json;
  json["documents"] = cell_result_json(results.cells().front())["documents"];
  for (const Entry& entry : results.entries()) json["entries"].push_back(entry_json(results, entry));
  for (const BestK& best : best_k(results))
    json["best_k"].push_back({{"budget", best.budget}, {"k", best.k}, {"by_seed", best.by_seed}});
  if (const std::optional<Fit> fit = fit_best_k(results)) json["fit"] = fit_json(*fit);
  json["matrices"] = matrices_json(results);
  json["learning_rates"] = sweeps_json(results);
  json["tasks"] = tasks_json(results);
  return json;
}

Json study_times_json(const Config& config, const std::map<std::string, CellTimes>& times) {
  Json json = {{"format", 1}, {"cells", Json::object()}, {"systems", Json::object()}};
  double seconds = 0, flops = 0;
  std::map<System, std::vector<CellTimes>> of_system;
  for (const Cell& cell : cells_of(config)) {
    const auto found = times.find(cell.name());
    if (found == times.end()) continue;
    json["cells"][cell.name()] = cell_times_json(found->second);
    of_system[cell.system].push_back(found->second);
    seconds += found->second.training_seconds + found->second.evaluation_seconds;
    flops += cell_flops(config, cell.system);
  }
  for (const auto& [system, list] : of_system) {
    double training = 0, longest = 0, evaluation = 0;
    for (const CellTimes& one : list) {
      training += one.training_seconds / static_cast<double>(list.size());
      longest += one.longest_seconds / static_cast<double>(list.size());
      evaluation += one.evaluation_seconds / static_cast<double>(list.size());
    }
    json["systems"][system.name()] = {
        {"training_seconds", training}, {"longest_seconds", longest}, {"evaluation_seconds", evaluation}};
  }
  json["seconds"] = seconds;
  json["training_flops_per_second"] = seconds > 0 ? Json(flops / seconds) : Json();
  return json;
}

}  // namespace cbtm::study
