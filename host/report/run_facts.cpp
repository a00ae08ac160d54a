#include "report/run_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "cbtm/base/error.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/families.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"
#include "report/json_lookup.h"

namespace cbtm::report {
namespace {

constexpr int64_t kClustersMax = 100'000;  ///< more is damage
constexpr int kDepthMax = 32;              ///< of JSON; deeper is damage

bool deeper_than(const Json& json, int levels) {
  if (!json.is_structured()) return false;
  return levels == 0 ||
         std::any_of(json.begin(), json.end(), [&](const Json& member) { return deeper_than(member, levels - 1); });
}

class Reader {
 public:
  explicit Reader(const RunDirectory& run) : run_(run) {}

  RunFacts read() {
    facts_.name = std::filesystem::absolute(run_.root() / ".").lexically_normal().parent_path().filename().string();
    facts_.run = json(run_.run_json(), "run.json: settings, timings and commands are not shown");
    facts_.clusters = json(run_.clusters_json(), "clusters.json: the corpus has not been clustered");
    read_model_shape();
    facts_.seed = model(run_.seed(), "seed", -1, "seed/: there is no seed model");
    facts_.baseline = model(run_.baseline(), "dense baseline", -1,
                            "baseline/: there is no dense model of equal compute to compare with");
    read_experts();
    facts_.seed_evaluation = json(run_.evaluation() / "seed.json", "evaluation/seed.json: the seed was not evaluated");
    facts_.baseline_evaluation =
        json(run_.evaluation() / "baseline.json", "evaluation/baseline.json: the dense baseline was not evaluated");
    facts_.ensemble_evaluation =
        json(run_.evaluation() / "ensemble.json", "evaluation/ensemble.json: the ensemble was not evaluated");
    facts_.curve =
        json(run_.evaluation() / "curve.json", "evaluation/curve.json: the gain against budget was not measured");
    read_sweep();
    read_evaluated_clusters();
    return std::move(facts_);
  }

 private:
  /// The file's JSON; if it is not there `missing` says so, if it cannot be read, why.
  Json json(const std::filesystem::path& path, const std::string& missing) {
    if (!std::filesystem::exists(path)) {
      facts_.missing.push_back(missing);
      return nullptr;
    }
    try {
      Json value = read_json_file(path);
      if (value.is_object() && !deeper_than(value, kDepthMax)) return value;
      facts_.missing.push_back(path.string() + ": cannot be used: it is not a JSON object as cbtm writes it");
    } catch (const Error& error) {
      facts_.missing.push_back(std::string("cannot be used: ") + error.what());
    }
    return nullptr;
  }

  /// A model's card, if it is as cbtm wrote it.
  Json card(const std::filesystem::path& path, const std::string& name) {
    Json value = json(path, name + ": its expert.json is missing");
    try {
      verify_expert_card(value, path);
      return value;
    } catch (const Error& error) {
      facts_.missing.push_back(std::string("cannot be used: ") + error.what());
    }
    return nullptr;
  }

  ModelFacts model(const std::filesystem::path& directory, const std::string& name, int64_t cluster,
                   const std::string& missing) {
    ModelFacts facts{.name = name, .cluster = cluster};
    if (!std::filesystem::exists(directory)) {
      facts_.missing.push_back(missing);
      return facts;
    }
    facts.card = card(directory / "expert.json", name);
    std::ifstream file(directory / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json entry = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      const double tokens = number(entry, {"tokens"});
      if (!std::isfinite(tokens)) continue;  // half a line of a killed run
      facts.metrics.push_back({tokens, number(entry, {"loss"}), number(entry, {"validation_loss"})});
    }
    return facts;
  }

  void read_model_shape() {
    facts_.parameters = NAN;
    const std::filesystem::path path = model_config_file(run_.seed());
    if (!std::filesystem::exists(path)) return;  // the missing seed is named already
    try {
      facts_.model = parse_model_spec(read_json_file(path), path.string());
      facts_.parameters = static_cast<double>(ParameterLayout(*facts_.model).parameter_count());
    } catch (const std::exception& error) {
      facts_.missing.push_back(std::string("the model's shape cannot be read: ") + error.what());
    }
  }

  void read_experts() {
    const double stated = number(facts_.clusters, {"clusters"});
    if (stated >= 1 && stated <= kClustersMax) facts_.k = static_cast<int64_t>(stated);
    std::vector<int64_t> absent;
    for (int64_t cluster = 0; cluster < facts_.k || std::filesystem::exists(run_.expert(cluster)); ++cluster) {
      if (std::filesystem::exists(run_.expert(cluster)))
        facts_.experts.push_back(
            model(run_.expert(cluster), "expert " + RunDirectory::cluster_name(cluster), cluster, ""));
      else
        absent.push_back(cluster);
    }
    if (facts_.k == 0) facts_.k = static_cast<int64_t>(facts_.experts.size());
    if (absent.empty()) return;
    std::string names;
    for (size_t i = 0; i < std::min<size_t>(absent.size(), 12); ++i)
      names += (i > 0 ? ", " : "") + RunDirectory::cluster_name(absent[i]);
    facts_.missing.push_back(fmt::format("experts/: {} of {} experts are not there ({}{})", absent.size(), facts_.k,
                                         names, absent.size() > 12 ? ", ..." : ""));
  }

  void read_sweep() {
    std::map<int64_t, double> entries;
    const auto add = [&](double top_k, double perplexity) {
      if (top_k >= 1 && top_k <= kClustersMax && std::isfinite(perplexity))
        entries.emplace(static_cast<int64_t>(top_k), perplexity);
    };
    for (const Json& entry : find(facts_.ensemble_evaluation, {"sweep"}))
      add(number(entry, {"top_k"}), number(entry, {"perplexity"}));
    // One number, or those of the sweep: what stands outside the sweep is of the first.
    const Json& top_k = find(facts_.ensemble_evaluation, {"settings", "top_k"});
    const Json& first = top_k.is_array() && !top_k.empty() ? top_k.front() : top_k;
    if (const double scored = number(first, {}); scored >= 1 && scored <= kClustersMax)
      facts_.scored_top_k = static_cast<int64_t>(scored);
    add(static_cast<double>(facts_.scored_top_k), number(facts_.ensemble_evaluation, {"perplexity"}));
    for (const auto& [top_k, perplexity] : entries) facts_.sweep.push_back({top_k, perplexity});
    if (facts_.k == 0)
      facts_.k = static_cast<int64_t>(find(facts_.ensemble_evaluation, {"settings", "experts_present"}).size());
  }

  /// The evaluated documents are those of the shards in order if the evaluation says so and the names agree.
  void read_evaluated_clusters() {
    const Json& documents = find(facts_.ensemble_evaluation, {"documents"});
    const std::string split = text(facts_.ensemble_evaluation, {"settings", "documents", "split"});
    if (!documents.is_array()) return;
    if (split != "valid" && split != "tune" && split != "train") return;
    std::vector<int64_t> clusters;
    for (int64_t cluster = 0; cluster < facts_.k; ++cluster) {
      std::ifstream file(run_.shard(cluster) / (split + ".documents.jsonl"));
      for (std::string line; std::getline(file, line); clusters.push_back(cluster))
        if (clusters.size() >= documents.size() ||
            text(Json::parse(line, nullptr, false), {"id"}) != text(documents[clusters.size()], {"id"}))
          return;
    }
    if (clusters.size() == documents.size()) facts_.evaluated_clusters = std::move(clusters);
  }

  const RunDirectory& run_;
  RunFacts facts_;
};

}  // namespace

double RunFacts::seed_perplexity() const { return number(seed_evaluation, {"perplexity"}); }
double RunFacts::dense_perplexity() const { return number(baseline_evaluation, {"perplexity"}); }

RunFacts read_run_facts(const RunDirectory& run) { return Reader(run).read(); }

std::string top_k_name(int64_t top_k, int64_t k) {
  return top_k >= k && k > 1 ? fmt::format("all {}", k) : fmt::format("top-{}", top_k);
}

}  // namespace cbtm::report
