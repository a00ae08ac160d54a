#include "cbtm/run/evaluation_result.h"

#include <cmath>

namespace cbtm {
namespace {

constexpr const char* kRemedy = "evaluate again with --redo";
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kNumberMax = 1e18;              // more is damage, and what is made of it would overflow
constexpr int64_t kCountMax = int64_t{1} << 48;  // the same for counts
constexpr int64_t kClustersMax = int64_t{1} << 20;

/// NaN too for a number that no run can hold.
double kept(double number) { return std::abs(number) <= kNumberMax ? number : kNan; }
double number_of(const JsonReader& read, const char* key) { return kept(read.number_or(key, kNan)); }
int64_t count_of(const JsonReader& read, const char* key) { return read.integer_or(key, -1, 0, kCountMax); }

/// Applies read_item to each item of a list that may be missing.
template <typename Item, typename ReadItem>
std::vector<Item> items_of(const JsonReader& read, const char* key, const ReadItem& read_item) {
  std::vector<Item> items;
  if (!read.has(key)) return items;
  const JsonReader list = read.list(key);
  for (size_t i = 0; i < list.size(); ++i) items.push_back(read_item(list.item(i)));
  return items;
}

std::vector<double> numbers_of(const JsonReader& list) {
  std::vector<double> numbers;
  for (size_t i = 0; i < list.size(); ++i)
    numbers.push_back(list.item(i).json().is_null() ? kNan : kept(list.item(i).as_number()));
  return numbers;
}

Json document_json(const DocumentResult& document) {
  Json json = {
      {"id", document.id},
      {"tokens", document.tokens},
      {"negative_log_likelihood", document.negative_log_likelihood},
      {"perplexity", document.tokens > 0
                         ? Json(std::exp(document.negative_log_likelihood / static_cast<double>(document.tokens)))
                         : Json()}};
  if (!document.expert_weights.empty()) json["expert_weights"] = document.expert_weights;
  return json;
}

DocumentResult parse_document(const JsonReader& read) {
  DocumentResult document;
  document.id = read.text_or("id", "");
  document.tokens = read.integer("tokens", 0, kCountMax);
  document.negative_log_likelihood = kept(read.number("negative_log_likelihood"));
  if (read.has("expert_weights")) document.expert_weights = numbers_of(read.list("expert_weights"));
  return document;
}

Json sweep_json(const SweepResult& entry) {
  Json json = {{"top_k", entry.top_k},
               {"perplexity", entry.perplexity},
               {"negative_log_likelihood", entry.negative_log_likelihood},
               {"tokens", entry.tokens}};
  if (!entry.router.empty()) json["router"] = entry.router;
  if (!entry.document_losses.empty()) json["document_negative_log_likelihoods"] = entry.document_losses;
  return json;
}

SweepResult parse_sweep(const JsonReader& read) {
  SweepResult entry;
  entry.router = read.text_or("router", "");
  entry.top_k = read.integer("top_k", 1, kClustersMax);
  entry.perplexity = number_of(read, "perplexity");
  entry.negative_log_likelihood = number_of(read, "negative_log_likelihood");
  entry.tokens = count_of(read, "tokens");
  if (read.has("document_negative_log_likelihoods"))
    entry.document_losses = numbers_of(read.list("document_negative_log_likelihoods"));
  return entry;
}

EvaluationSettings parse_settings(const JsonReader& read) {
  EvaluationSettings settings;
  settings.all = read.json();
  settings.router_temperature = number_of(read, "router_temperature");
  settings.router_hash = read.text_or("router_hash", "");
  settings.command = read.text_or("command", "");
  // One number, or those of the sweep: what stands outside the sweep is of the first.
  if (read.has("top_k")) {
    const JsonReader top_k = read.at("top_k");
    settings.top_k = top_k.json().is_array() ? top_k.as_integers(1, kClustersMax)
                                             : std::vector<int64_t>{top_k.as_integer(1, kClustersMax)};
  }
  if (read.has("experts_present")) settings.experts_present = static_cast<int64_t>(read.list("experts_present").size());
  if (read.has("documents")) settings.split = read.object("documents").text_or("split", "");
  return settings;
}

}  // namespace

EvaluationSettings parse_evaluation_settings(const Json& json, const std::string& file) {
  return parse_settings(JsonReader(json, file, kRemedy).as_object());
}

Json evaluation_json(const EvaluationResult& result) {
  Json json = {{"perplexity", result.perplexity}, {"negative_log_likelihood", result.negative_log_likelihood},
               {"tokens", result.tokens},         {"documents", Json::array()},
               {"seconds", result.seconds},       {"tokens_read_by_experts", result.tokens_read},
               {"settings", result.settings.all}};
  for (const DocumentResult& document : result.documents) json["documents"].push_back(document_json(document));
  for (const SweepResult& entry : result.sweep) json["sweep"].push_back(sweep_json(entry));
  if (!result.matrix.empty()) json["matrix"] = result.matrix;
  return json;
}

// Member by member: when a member of an aggregate throws, g++ 12 destroys some of those before it twice.
EvaluationResult parse_evaluation(const Json& json, const std::string& file) {
  const JsonReader read(json, file, kRemedy);
  EvaluationResult result;
  result.perplexity = number_of(read, "perplexity");
  result.negative_log_likelihood = number_of(read, "negative_log_likelihood");
  result.tokens = count_of(read, "tokens");
  result.documents = items_of<DocumentResult>(read, "documents", parse_document);
  result.seconds = number_of(read, "seconds");
  result.tokens_read = count_of(read, "tokens_read_by_experts");
  result.sweep = items_of<SweepResult>(read, "sweep", parse_sweep);
  result.matrix = items_of<std::vector<double>>(read, "matrix", numbers_of);
  if (read.has("settings")) result.settings = parse_settings(read.object("settings"));
  return result;
}

Json gain_curve_json(const std::vector<GainPoint>& points) {
  Json list = Json::array();
  for (const GainPoint& point : points)
    list.push_back({{"step", point.step},
                    {"tokens", point.tokens},
                    {"dense", point.dense},
                    {"top_1", point.top_1},
                    {"top_2", point.top_2},
                    {"all", point.all}});
  return {{"points", list}};
}

std::vector<GainPoint> parse_gain_curve(const Json& json, const std::string& file) {
  return items_of<GainPoint>(JsonReader(json, file, kRemedy), "points", [](const JsonReader& read) -> GainPoint {
    return {.step = count_of(read, "step"),
            .tokens = read.integer("tokens", 0, kCountMax),
            .dense = number_of(read, "dense"),
            .top_1 = number_of(read, "top_1"),
            .top_2 = number_of(read, "top_2"),
            .all = number_of(read, "all")};
  });
}

Json evaluation_summary_json(const EvaluationSummary& summary) {
  Json json = {{"documents", summary.documents}, {"tokens", summary.tokens},
               {"clusters", summary.clusters},   {"router_temperature", summary.router_temperature},
               {"seed", summary.seed},           {"dense", summary.dense}};
  if (std::isfinite(summary.mixture)) json["moe"] = summary.mixture;
  for (const auto& [top_k, perplexity] : summary.top_k) json["top_k"].push_back({top_k, perplexity});
  return json;
}

EvaluationSummary parse_evaluation_summary(const Json& json, const std::string& file) {
  const JsonReader read(json, file, kRemedy);
  EvaluationSummary summary;
  summary.documents = read.integer("documents", 0);
  summary.tokens = read.integer("tokens", 0);
  summary.clusters = read.integer("clusters", 0);
  summary.router_temperature = read.number("router_temperature");
  summary.seed = read.number("seed");
  summary.mixture = number_of(read, "moe");
  summary.dense = read.number("dense");
  const JsonReader sweep = read.list("top_k");
  for (size_t i = 0; i < sweep.size(); ++i) {
    if (sweep.item(i).as_list().size() != 2) sweep.refuse("must hold pairs of a number and a perplexity");
    summary.top_k.emplace_back(sweep.item(i).item(0).as_integer(1), sweep.item(i).item(1).as_number());
  }
  return summary;
}

}  // namespace cbtm
