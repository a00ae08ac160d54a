#include "cbtm/pipeline/evaluation_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/families.h"
#include "cbtm/pipeline/router_temperature.h"
#include "cbtm/pipeline/stage.h"
#include "cbtm/run/device_use.h"
#include "cbtm/run/training_summary.h"
#include "pipeline/snapshots.h"

namespace cbtm {
namespace {

/// Whether there is a baseline that is a mixture of experts. A damaged one is there too: opening it says so.
bool has_mixture(const RunDirectory& run) { return std::filesystem::exists(run.mixture()); }

/// 1, 2, 4, ... and all.
std::vector<int64_t> top_k_sweep(int64_t clusters) {
  std::vector<int64_t> values;
  for (int64_t top_k = 1; top_k < clusters; top_k *= 2) values.push_back(top_k);
  values.push_back(clusters);
  return values;
}

std::string hash_of(const std::filesystem::path& model) { return ModelCheckpoint::open(model).weights_hash(); }

Evaluation evaluate_one(Device& device, const std::filesystem::path& model,
                        const std::vector<EvaluationDocument>& documents, int64_t length) {
  return evaluate_model(*InferenceModel::load(device, model), documents, length);
}

/// The evaluation of a run: seed, dense baseline and ensemble on its valid documents.
class RunEvaluation {
 public:
  RunEvaluation(Device& device, const RunDirectory& run, const ExpertSet& experts, int64_t memory_bytes)
      : device_(device),
        run_(run),
        experts_(experts),
        power_(experts.router().defaults().distance_power),
        sweep_(top_k_sweep(experts.router().clusters())),
        options_{.length_max = experts.trained_length(), .memory_bytes = memory_bytes} {}

  /// Writes the results, and returns the numbers of them.
  EvaluationSummary evaluate() {
    temperature_ = tune();
    documents_ = run_documents(run_, "valid");
    EvaluationSummary summary{.documents = static_cast<int64_t>(documents_.size()),
                              .clusters = sweep_.back(),
                              .router_temperature = temperature_,
                              .seed = evaluate_model("seed", run_.seed()),
                              .dense = evaluate_model("baseline", run_.baseline())};
    if (has_mixture(run_)) summary.mixture = evaluate_model("moe", run_.mixture());
    EvaluationOptions options = options_;
    for (const int64_t top_k : sweep_) options.mixtures.push_back({top_k, temperature_, power_});
    options.matrix = true;
    const Evaluation ensemble = evaluate_ensemble(device_, experts_, documents_, options);
    summary.tokens = ensemble.scores[0].tokens;
    for (const Score& score : ensemble.scores) summary.top_k.emplace_back(score.top_k, score.perplexity());
    const GainPoint end{.dense = summary.dense,
                        .top_1 = ensemble.scores[0].perplexity(),
                        .top_2 = ensemble.scores[std::min<size_t>(1, sweep_.size() - 1)].perplexity(),
                        .all = ensemble.scores.back().perplexity()};
    write_json_file(run_.evaluation() / "curve.json", gain_curve_json(gain_curve(end)));
    write("ensemble", ensemble,
          {{"experts", run_.experts().string()},
           {"top_k", sweep_},
           {"router_temperature", temperature_},
           {"distance_power", power_},
           {"routing", "token"},
           {"max_tokens", options_.length_max},
           {"router", experts_.router().kind()},
           {"router_hash", experts_.router().content_hash()}});
    return summary;
  }

 private:
  /// The temperature that is best for top-2, which the routers then have.
  double tune() const {
    const std::vector<EvaluationDocument> tuning = run_documents(run_, "tune");
    EvaluationOptions options = options_;
    options.mixtures = {{std::min<int64_t>(2, sweep_.back()), 0.1, power_}};
    const double temperature = tune_temperature(device_, experts_, tuning, options,
                                                temperature_candidates(experts_.router().temperature_scale()));
    say(fmt::format("router temperature {} is best for top-2 on {} tune documents", temperature, tuning.size()));
    record_temperature(experts_.router(), temperature, power_, run_.experts_router());
    record_temperature(experts_.router(), temperature, power_, run_.router());
    return temperature;
  }

  void write(const std::string& name, const Evaluation& evaluation, const Json& settings) const {
    const Json described = {{"run", run_.root().string()}, {"split", "valid"}};
    write_json_file(run_.evaluation() / (name + ".json"),
                    evaluation_json(evaluation_result(evaluation, settings, described)));
  }

  /// Its perplexity.
  double evaluate_model(const std::string& name, const std::filesystem::path& model) const {
    const Evaluation evaluation = evaluate_one(device_, model, documents_, options_.length_max);
    write(name, evaluation, {{"model", model.string()}, {"max_tokens", options_.length_max}});
    return evaluation.scores[0].perplexity();
  }

  /// Perplexities of the models kept on the way, at the steps that their cards say, and of the finished ones (`last`).
  std::vector<GainPoint> gain_curve(GainPoint last) const {
    const std::optional<ExpertCard> baseline = read_expert_card(run_.baseline());
    const std::string card = (run_.baseline() / "expert.json").string();
    const TrainingSummary training = baseline ? parse_training_summary(baseline->training, card) : TrainingSummary();
    if (training.tokens < 0 || training.steps < 0)
      fail("{}: says nothing of its training; train it again with --redo", card);
    last.tokens = training.tokens;
    last.step = training.steps;
    std::vector<GainPoint> points;
    for (const std::filesystem::path& directory : snapshot_directories(run_)) {
      std::string problem;
      const RunDirectory snapshot(directory);
      const std::optional<ExpertSet> experts = snapshot_experts(device_, run_, snapshot, *baseline, problem);
      if (experts)
        points.push_back(snapshot_gain(snapshot, *experts));
      else
        warn(fmt::format("{}: left out of the curve: {}", directory.string(), problem));
    }
    std::sort(points.begin(), points.end(), [](const GainPoint& a, const GainPoint& b) { return a.step < b.step; });
    points.push_back(last);
    return points;
  }

  GainPoint snapshot_gain(const RunDirectory& snapshot, const ExpertSet& experts) const {
    EvaluationOptions options = options_;
    const double power = experts.router().defaults().distance_power;
    for (const int64_t top_k :
         {int64_t{1}, std::min<int64_t>(2, experts.router().clusters()), experts.router().clusters()})
      options.mixtures.push_back({top_k, temperature_, power});
    const Evaluation ensemble = evaluate_ensemble(device_, experts, documents_, options);
    const std::optional<ExpertCard> dense = read_expert_card(snapshot.baseline());
    return {.step = dense->snapshot_step,
            .tokens = dense->snapshot_tokens,
            .dense = evaluate_one(device_, snapshot.baseline(), documents_, options_.length_max).scores[0].perplexity(),
            .top_1 = ensemble.scores[0].perplexity(),
            .top_2 = ensemble.scores[1].perplexity(),
            .all = ensemble.scores[2].perplexity()};
  }

  Device& device_;
  const RunDirectory& run_;
  const ExpertSet& experts_;
  double power_;
  std::vector<int64_t> sweep_;
  EvaluationOptions options_;  ///< but for the mixtures
  double temperature_ = 0;
  std::vector<EvaluationDocument> documents_;
};

std::vector<std::string> result_files(const RunDirectory& run) {
  std::vector<std::string> names = {"seed.json", "baseline.json", "ensemble.json", "curve.json"};
  if (has_mixture(run)) names.push_back("moe.json");
  return names;
}

/// Names the files of the results and the numbers in run.json; "missing" if a file is.
Json hash_results(const RunDirectory& run, const Json& numbers) {
  const std::vector<std::string> names = result_files(run);
  for (const std::string& name : names)
    if (!std::filesystem::exists(run.evaluation() / name)) return "missing";
  return hash_hex(content_hashes(run.evaluation(), names).dump() + numbers.dump());
}

Json recorded_numbers(const RunDirectory& run) {
  const std::optional<StageSummary> record = find_stage(run, "evaluate");
  return record ? record->numbers : Json();
}

}  // namespace

EvaluationSummary evaluate_run(Device& device, const RunDirectory& run, int64_t memory_bytes, bool redo,
                               const std::string& command) {
  const ExpertSet experts = ExpertSet::open({.experts = run.experts(), .device = &device});
  Stage stage{.name = "evaluate",
              .settings = {{"split", "valid"},
                           {"top_k", top_k_sweep(experts.router().clusters())},
                           {"router_temperature", "tune"}},
              .inputs = {{"router", experts.router().content_hash()},
                         {"seed", hash_of(run.seed())},
                         {"baseline", hash_of(run.baseline())}},
              .command = command,
              .result = run.evaluation() / "ensemble.json",
              .find = [&]() -> std::optional<FoundResult> {
                if (!std::filesystem::exists(run.evaluation() / "ensemble.json")) return std::nullopt;
                return FoundResult{.hash = hash_results(run, recorded_numbers(run))};
              },
              .changed = fmt::format("{}: the stage 'evaluate' was made from something else", run.root().string()),
              .remedy = "pass --redo to make it again, or another --run"};
  for (const Expert& expert : experts.experts())
    stage.inputs["expert/" + RunDirectory::cluster_name(expert.cluster)] = hash_of(expert.directory);
  if (has_mixture(run)) stage.inputs["moe"] = hash_of(run.mixture());
  for (const std::string& name : result_files(run)) stage.result_files.push_back(run.evaluation() / name);
  std::optional<EvaluationSummary> made;
  stage.make = [&]() -> StageResult {
    made = RunEvaluation(device, run, experts, memory_bytes).evaluate();
    Json numbers = evaluation_summary_json(*made);
    add_device_use(numbers, {.devices = 1, .device = device.description()});
    return {.hash = hash_results(run, numbers), .numbers = numbers};
  };
  run_stage(run, stage, redo);
  if (!made) made = parse_evaluation_summary(recorded_numbers(run), run.run_json().string());
  remove_snapshots(run);  // also those that a process left which died while it removed them
  return *made;
}

}  // namespace cbtm
