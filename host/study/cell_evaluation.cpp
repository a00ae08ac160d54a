#include "study/cell_evaluation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/routing_methods.h"
#include "cbtm/pipeline/router_temperature.h"
#include "study/recipe.h"
#include "study/task_evaluation.h"

namespace cbtm::study {
namespace {

/// At most `limit` (0: all) documents of a split, chosen by the hash of their tokens, in an order that does not depend
/// on the shards.
std::vector<EvaluationDocument> documents_of(const RunDirectory& run, const std::string& split, int64_t limit) {
  struct Keyed {
    uint64_t hash;
    EvaluationDocument document;
  };
  std::vector<Keyed> keyed;
  for (EvaluationDocument& document : run_documents(run, split)) {
    const std::string_view bytes(reinterpret_cast<const char*>(document.ids.data()), document.ids.size() * 4);
    keyed.push_back({hash64(bytes), std::move(document)});
  }
  std::sort(keyed.begin(), keyed.end(), [](const Keyed& a, const Keyed& b) {
    return std::tie(a.hash, a.document.id) < std::tie(b.hash, b.document.id);
  });
  if (limit > 0 && static_cast<int64_t>(keyed.size()) > limit) keyed.resize(static_cast<size_t>(limit));
  std::sort(keyed.begin(), keyed.end(), [](const Keyed& a, const Keyed& b) {
    return std::tie(a.document.id, a.hash) < std::tie(b.document.id, b.hash);
  });
  std::vector<EvaluationDocument> documents;
  for (Keyed& one : keyed) documents.push_back(std::move(one.document));
  return documents;
}

double loss_per_token(const Score& score) {
  return score.negative_log_likelihood / static_cast<double>(std::max<int64_t>(1, score.tokens));
}

SystemScore system_score(const Score& score, double temperature) {
  SystemScore result{.router = score.router, .top_k = score.top_k, .temperature = temperature};
  for (const DocumentScore& document : score.documents) result.losses.push_back(document.negative_log_likelihood);
  return result;
}

void take_documents(const Score& score, CellResult& result) {
  for (const DocumentScore& document : score.documents) result.documents.push_back({document.id, document.tokens});
}

void evaluate_single(Device& device, const Config& config, const RunDirectory& run, CellResult& result) {
  const std::unique_ptr<InferenceModel> model =
      InferenceModel::load(device, result.cell.system.kind == SystemKind::moe ? run.mixture() : run.baseline());
  const auto score = [&](const char* split) {
    return evaluate_model(*model, documents_of(run, split, config.documents), config.sequence).scores.front();
  };
  result.tune_loss = loss_per_token(score("tune"));
  const Score valid = score("valid");
  take_documents(valid, result);
  result.scores.push_back(system_score(valid, NAN));
  result.scores.back().top_k = 1;
  if (scores_tasks(config, result.cell.system)) score_tasks(*model, config, run, result);
}

/// The experts of a cell on its documents.
class EnsembleCell {
 public:
  EnsembleCell(Device& device, const Config& config, const RunDirectory& run, int64_t memory_bytes, CellResult& result)
      : device_(device),
        config_(config),
        run_(run),
        result_(result),
        experts_(ExpertSet::open({.experts = run.experts()})),
        options_{.length_max = config.sequence, .memory_bytes = memory_bytes} {
    std::string routers;
    for (const std::string& router : config.routers) routers += (routers.empty() ? "" : ",") + router;
    specs_ = parse_router_specs(routers);
    for (int64_t top_k = 1; top_k < result.cell.system.k; top_k *= 2) sweep_.push_back(top_k);
    sweep_.push_back(result.cell.system.k);
  }

  void evaluate() {
    tune();
    EvaluationOptions options = options_;
    options.matrix = true;
    std::vector<double> temperatures;
    for (const RouterSpec& spec : specs_) {
      if (spec.kind == RouterKind::tfidf) {
        for (const int64_t top_k : numbers_of(spec)) {
          temperatures.push_back(temperature_of(spec, top_k));
          options.routers.push_back(
              distance_routing({.top_k = top_k, .temperature = temperatures.back(), .distance_power = power_of(spec)},
                               experts_.present(), spec.text));
        }
      } else {
        add_others(spec, options);
        temperatures.resize(options.routers.size(), NAN);
      }
    }
    const Evaluation valid =
        evaluate_ensemble(device_, experts_, documents_of(run_, "valid", config_.documents), options);
    take_documents(valid.scores.front(), result_);
    for (size_t i = 0; i < valid.scores.size(); ++i)
      result_.scores.push_back(system_score(valid.scores[i], temperatures[i]));
    result_.matrix = valid.matrix;
    if (scores_tasks(config_, result_.cell.system))
      score_tasks(device_, experts_, task_mixtures(), config_, options_.memory_bytes, result_);
  }

 private:
  double power_of(const RouterSpec& spec) const {
    return spec.distance_power.value_or(experts_.router().defaults().distance_power);
  }

  std::vector<int64_t> numbers_of(const RouterSpec& spec) const {
    if (!spec.top_k) return sweep_;
    return {*spec.top_k == 0 ? sweep_.back() : std::min(*spec.top_k, sweep_.back())};
  }

  double temperature_of(const RouterSpec& spec, int64_t top_k) const {
    return spec.temperature ? *spec.temperature : tuned_.at({power_of(spec), top_k});
  }

  void add_others(const RouterSpec& spec, EvaluationOptions& options) const {
    const Mixture all{.top_k = sweep_.back()};
    for (const auto& method : routing_methods({&spec, 1}, experts_, {&all, 1})) options.routers.push_back(method);
  }

  /// Every candidate temperature for every number of experts, in one pass over the tune documents. The main way of use
  /// gives the cell's tune loss.
  void tune() {
    const std::string main = main_router(result_.cell.system, config_.routers);
    EvaluationOptions options = options_;
    std::vector<std::pair<double, int64_t>> keys;  // of each mixture
    const auto add = [&](double power, int64_t top_k) {
      if (tuned_.contains({power, top_k})) return;
      tuned_[{power, top_k}] = NAN;
      for (const double temperature : temperature_candidates(experts_.router().temperature_scale())) {
        options.mixtures.push_back({top_k, temperature, power});
        keys.emplace_back(power, top_k);
      }
    };
    for (const RouterSpec& spec : specs_) {
      if (spec.kind == RouterKind::tfidf && !spec.temperature)
        for (const int64_t top_k : numbers_of(spec)) add(power_of(spec), top_k);
      if (spec.text == main && spec.kind != RouterKind::tfidf) add_others(spec, options);
    }
    const Evaluation tune =
        evaluate_ensemble(device_, experts_, documents_of(run_, "tune", config_.documents), options);
    std::map<std::pair<double, int64_t>, double> best;
    for (size_t i = 0; i < keys.size(); ++i) {
      const double loss = loss_per_token(tune.scores[i]);
      if (const auto found = best.find(keys[i]); found != best.end() && found->second <= loss) continue;
      best[keys[i]] = loss;
      tuned_[keys[i]] = options.mixtures[i].temperature;
    }
    result_.tune_loss = main == "tfidf" ? best.at({experts_.router().defaults().distance_power, sweep_.back()})
                                        : loss_per_token(tune.scores.back());
  }

  std::vector<Mixture> task_mixtures() const {
    const double power = experts_.router().defaults().distance_power;
    std::vector<Mixture> mixtures;
    for (const int64_t top_k : sweep_) mixtures.push_back({top_k, tuned_.at({power, top_k}), power});
    return mixtures;
  }

  Device& device_;
  const Config& config_;
  const RunDirectory& run_;
  CellResult& result_;
  ExpertSet experts_;
  EvaluationOptions options_;  ///< but for the ways of use
  std::vector<RouterSpec> specs_;
  std::vector<int64_t> sweep_;                          ///< numbers of experts: 1, 2, 4, ... and all
  std::map<std::pair<double, int64_t>, double> tuned_;  ///< by power and number of experts
};

}  // namespace

void evaluate_cell(Device& device, const Config& config, const RunDirectory& run, int64_t memory_bytes,
                   CellResult& result) {
  if (result.cell.system.kind == SystemKind::ensemble)
    EnsembleCell(device, config, run, memory_bytes, result).evaluate();
  else
    evaluate_single(device, config, run, result);
}

}  // namespace cbtm::study
