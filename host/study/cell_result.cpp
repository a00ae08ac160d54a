#include "cbtm/study/cell_result.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"

namespace cbtm::study {
namespace {

constexpr const char* kRemedy = "remove the file; the same command makes it again";

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

std::vector<double> read_numbers(const JsonReader& list) {
  std::vector<double> values;
  for (size_t i = 0; i < list.size(); ++i) values.push_back(list.item(i).as_number());
  return values;
}

Json cell_json(const Cell& cell) {
  Json json = {{"kind", kind_name(cell.system.kind)}, {"larger", cell.system.larger},        {"k", cell.system.k},
               {"budget", cell.system.budget},        {"learning_rate", cell.learning_rate}, {"seed", cell.seed}};
  if (cell.system.kind == SystemKind::ensemble) json["clustering"] = clustering_name(cell.system.clustering);
  return json;
}

Cell parse_cell(const JsonReader& read) {
  Cell cell;
  cell.system.kind = parse_kind(read.text("kind"));
  cell.system.larger = read.truth("larger");
  if (cell.system.kind == SystemKind::ensemble) cell.system.clustering = parse_clustering(read.text("clustering"));
  cell.system.k = read.integer("k", 1);
  cell.system.budget = read.integer("budget", 1);
  cell.learning_rate = read.number("learning_rate", 0, 10);
  cell.seed = static_cast<uint64_t>(read.integer("seed", 0));
  return cell;
}

Json score_json(const SystemScore& score) {
  return {{"router", score.router},
          {"top_k", score.top_k},
          {"temperature", number_or_null(score.temperature)},
          {"losses", score.losses}};
}

SystemScore parse_score(const JsonReader& read, size_t documents) {
  SystemScore score{.router = read.text("router"),
                    .top_k = read.integer("top_k", 1),
                    .temperature = read.number_or("temperature", NAN),
                    .losses = read_numbers(read.list("losses"))};
  if (score.losses.size() != documents) read.list("losses").refuse("has another length than the documents");
  return score;
}

Json task_json(const TaskScore& task) {
  return {{"task", task.task},
          {"router", task.router},
          {"top_k", task.top_k},
          {"accuracies", task.accuracies},
          {"right", task.right}};
}

TaskScore parse_task(const JsonReader& read) {
  return {.task = read.text("task"),
          .router = read.text("router"),
          .top_k = read.integer("top_k", 1),
          .accuracies = read_numbers(read.list("accuracies")),
          .right = read_numbers(read.list("right"))};
}

void parse_documents(const JsonReader& read, std::vector<ScoredDocument>& documents) {
  const std::vector<std::string> ids = read.texts("ids");
  const std::vector<int64_t> tokens = read.integers("tokens", 0);
  if (ids.size() != tokens.size()) read.refuse("has ids and tokens of different lengths");
  for (size_t i = 0; i < ids.size(); ++i) documents.push_back({ids[i], tokens[i]});
}

}  // namespace

Json cell_result_json(const CellResult& result) {
  Json json = {{"format", 1},
               {"cell", cell_json(result.cell)},
               {"recipe", result.recipe},
               {"parameters", result.parameters},
               {"training_tokens", result.training_tokens},
               {"training_steps", result.training_steps},
               {"skipped_steps", result.skipped_steps},
               {"training_flops", result.training_flops},
               {"forward_flops", result.forward_flops},
               {"tune_loss", result.tune_loss},
               {"documents", {{"ids", Json::array()}, {"tokens", Json::array()}}},
               {"scores", Json::array()}};
  for (const ScoredDocument& document : result.documents) {
    json["documents"]["ids"].push_back(document.id);
    json["documents"]["tokens"].push_back(document.tokens);
  }
  for (const SystemScore& score : result.scores) json["scores"].push_back(score_json(score));
  if (!result.shards.empty()) json["shards"] = result.shards;
  for (const std::vector<double>& row : result.matrix) {
    Json values = Json::array();
    for (const double value : row) values.push_back(number_or_null(value));
    json["matrix"].push_back(values);
  }
  for (const TaskScore& task : result.tasks) json["tasks"].push_back(task_json(task));
  return json;
}

CellResult parse_cell_result(const Json& json, const std::string& file) {
  const JsonReader read(json, file, kRemedy);
  CellResult result;
  result.cell = parse_cell(read.object("cell"));
  result.recipe = read.object("recipe").json();
  result.parameters = read.integer("parameters", 1);
  result.training_tokens = read.integer("training_tokens", 0);
  result.training_steps = read.integer("training_steps", 0);
  result.skipped_steps = read.integer("skipped_steps", 0);
  result.training_flops = read.number("training_flops", 0);
  result.forward_flops = read.number("forward_flops", 0);
  result.tune_loss = read.number("tune_loss", 0);
  if (read.has("shards")) result.shards = read.integers("shards", 0);
  parse_documents(read.object("documents"), result.documents);
  const JsonReader scores = read.list("scores");
  for (size_t i = 0; i < scores.size(); ++i)
    result.scores.push_back(parse_score(scores.item(i).as_object(), result.documents.size()));
  if (read.has("matrix"))
    for (size_t row = 0; row < read.list("matrix").size(); ++row) {
      const JsonReader values = read.list("matrix").item(row).as_list();
      result.matrix.emplace_back();
      if (values.size() != read.list("matrix").size()) values.refuse("is not as long as there are experts");
      for (size_t i = 0; i < values.size(); ++i)
        result.matrix.back().push_back(values.item(i).json().is_null() ? NAN : values.item(i).as_number(0));
    }
  if (read.has("tasks"))
    for (size_t i = 0; i < read.list("tasks").size(); ++i)
      result.tasks.push_back(parse_task(read.list("tasks").item(i).as_object()));
  return result;
}

Json cell_times_json(const CellTimes& times) {
  return {{"training_seconds", times.training_seconds},
          {"longest_seconds", times.longest_seconds},
          {"evaluation_seconds", times.evaluation_seconds},
          {"device", times.device},
          {"threads", times.threads},
          {"version", CBTM_VERSION}};
}

CellTimes parse_cell_times(const Json& json, const std::string& file) {
  const JsonReader read(json, file, kRemedy);
  return {.training_seconds = read.number("training_seconds", 0),
          .longest_seconds = read.number("longest_seconds", 0),
          .evaluation_seconds = read.number("evaluation_seconds", 0),
          .device = read.text("device"),
          .threads = read.integer("threads", 1)};
}

std::string main_router(const System& system, const std::vector<std::string>& routers) {
  if (system.kind != SystemKind::ensemble) return "";
  const char* wanted = system.clustering == Clustering::domains  ? "posterior"
                       : system.clustering == Clustering::random ? "uniform"
                                                                 : "tfidf";
  return std::find(routers.begin(), routers.end(), wanted) != routers.end() ? wanted : "tfidf";
}

}  // namespace cbtm::study
