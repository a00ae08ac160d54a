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

constexpr int kDepthMax = 32;  ///< of JSON; deeper is damage

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
    facts_.run = parsed(run_.run_json(), "run.json: settings, timings and commands are not shown", parse_run_summary);
    facts_.clusters =
        parsed(run_.clusters_json(), "clusters.json: the corpus has not been clustered", parse_cluster_manifest);
    read_model_shape();
    facts_.seed = model(run_.seed(), "seed", -1, "seed/: there is no seed model");
    facts_.baseline = model(run_.baseline(), "dense baseline", -1,
                            "baseline/: there is no dense model of equal compute to compare with");
    if (holds_model(run_.mixture())) read_mixture();
    read_experts();
    facts_.seed_evaluation = evaluation("seed.json", "the seed was not evaluated");
    facts_.baseline_evaluation = evaluation("baseline.json", "the dense baseline was not evaluated");
    facts_.ensemble_evaluation = evaluation("ensemble.json", "the ensemble was not evaluated");
    if (auto curve = parsed(run_.evaluation() / "curve.json",
                            "evaluation/curve.json: the gain against budget was not measured", parse_gain_curve))
      facts_.curve = std::move(*curve);
    read_sweep();
    read_evaluated_clusters();
    return std::move(facts_);
  }

 private:
  /// What `parse` makes of the file's JSON. If the file is not there `missing` says so; if it cannot be read, why.
  template <typename Parse>
  auto parsed(const std::filesystem::path& path, const std::string& missing, const Parse& parse)
      -> std::optional<decltype(parse(Json(), std::string()))> {
    if (!std::filesystem::exists(path)) {
      facts_.missing.push_back(missing);
      return std::nullopt;
    }
    try {
      const Json value = read_json_file(path);
      if (value.is_object() && !deeper_than(value, kDepthMax)) return parse(value, path.string());
      facts_.missing.push_back(path.string() + ": cannot be used: it is not a JSON object as cbtm writes it");
    } catch (const Error& error) {
      facts_.missing.push_back(std::string("cannot be used: ") + error.what());
    }
    return std::nullopt;
  }

  std::optional<EvaluationResult> evaluation(const std::string& name, const std::string& missing) {
    return parsed(run_.evaluation() / name, fmt::format("evaluation/{}: {}", name, missing), parse_evaluation);
  }

  ModelFacts model(const std::filesystem::path& directory, const std::string& name, int64_t cluster,
                   const std::string& missing) {
    ModelFacts facts{.name = name, .cluster = cluster};
    if (!std::filesystem::exists(directory)) {
      facts_.missing.push_back(missing);
      return facts;
    }
    read_card(directory, facts);
    std::ifstream file(directory / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json entry = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      const double tokens = number(entry, {"tokens"});
      if (!std::isfinite(tokens)) continue;  // half a line of a killed run
      facts.metrics.push_back({tokens, number(entry, {"loss"}), number(entry, {"validation_loss"})});
      if (std::vector<RoutingFacts> layers = routing_facts(entry); !layers.empty())
        facts.routing.push_back({tokens, std::move(layers)});
    }
    return facts;
  }

  void read_card(const std::filesystem::path& directory, ModelFacts& facts) {
    try {
      facts.card = read_expert_card(directory);
      if (!facts.card)
        facts_.missing.push_back(facts.name + ": its expert.json is missing");
      else if (deeper_than(facts.card->settings, kDepthMax))
        fail("{}: its settings are nested too deeply", (directory / "expert.json").string());
      else
        facts.training = parse_training_summary(facts.card->training, (directory / "expert.json").string());
    } catch (const Error& error) {
      facts.card.reset();
      facts_.missing.push_back(std::string("cannot be used: ") + error.what());
    }
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

  void read_mixture() {
    facts_.mixture = model(run_.mixture(), "mixture of experts", -1, "");
    facts_.mixture_evaluation = evaluation("moe.json", "the mixture of experts was not evaluated");
    try {
      facts_.mixture_model = read_model_spec(model_config_file(run_.mixture()));
    } catch (const std::exception& error) {
      facts_.missing.push_back(std::string("the mixture's shape cannot be read: ") + error.what());
    }
  }

  void read_experts() {
    if (facts_.clusters) facts_.k = facts_.clusters->clusters;
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
    const auto add = [&](int64_t top_k, double perplexity) {
      if (top_k >= 1 && std::isfinite(perplexity)) entries.emplace(top_k, perplexity);
    };
    if (!facts_.ensemble_evaluation) return;
    const EvaluationResult& result = *facts_.ensemble_evaluation;
    for (const SweepResult& entry : result.sweep) add(entry.top_k, entry.perplexity);
    if (!result.settings.top_k.empty()) facts_.scored_top_k = result.settings.top_k.front();
    add(facts_.scored_top_k, result.perplexity);
    for (const auto& [top_k, perplexity] : entries) facts_.sweep.push_back({top_k, perplexity});
    if (facts_.k == 0) facts_.k = std::max<int64_t>(0, result.settings.experts_present);
  }

  /// The evaluated documents are those of the shards in order if the evaluation says so and the names agree.
  void read_evaluated_clusters() {
    if (!facts_.ensemble_evaluation) return;
    const std::vector<DocumentResult>& documents = facts_.ensemble_evaluation->documents;
    const std::string& split = facts_.ensemble_evaluation->settings.split;
    if (split != "valid" && split != "tune" && split != "train") return;
    std::vector<int64_t> clusters;
    for (int64_t cluster = 0; cluster < facts_.k; ++cluster) {
      std::ifstream file(run_.shard(cluster) / (split + ".documents.jsonl"));
      for (std::string line; std::getline(file, line); clusters.push_back(cluster))
        if (clusters.size() >= documents.size() ||
            text(Json::parse(line, nullptr, false), {"id"}) != documents[clusters.size()].id)
          return;
    }
    if (clusters.size() == documents.size()) facts_.evaluated_clusters = std::move(clusters);
  }

  const RunDirectory& run_;
  RunFacts facts_;
};

}  // namespace

double known(int64_t count) { return count < 0 ? NAN : static_cast<double>(count); }

double RunFacts::seed_perplexity() const { return seed_evaluation ? seed_evaluation->perplexity : NAN; }
double RunFacts::dense_perplexity() const { return baseline_evaluation ? baseline_evaluation->perplexity : NAN; }
double RunFacts::mixture_perplexity() const { return mixture_evaluation ? mixture_evaluation->perplexity : NAN; }

const EvaluationSettings& RunFacts::ensemble_settings() const {
  static const EvaluationSettings kNone;
  return ensemble_evaluation ? ensemble_evaluation->settings : kNone;
}

RunFacts read_run_facts(const RunDirectory& run) { return Reader(run).read(); }

std::string top_k_name(int64_t top_k, int64_t k) {
  return top_k >= k && k > 1 ? fmt::format("all {}", k) : fmt::format("top-{}", top_k);
}

}  // namespace cbtm::report
