#include "commands/evaluation_stage.h"

#include <fmt/format.h>

#include <chrono>

#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/train/run_training.h"
#include "commands/evaluation_flags.h"
#include "commands/stages.h"

namespace cbtm {
namespace {

/// 1, 2, 4, ... and all.
std::vector<int64_t> top_k_sweep(int64_t clusters) {
  std::vector<int64_t> values;
  for (int64_t top_k = 1; top_k < clusters; top_k *= 2) values.push_back(top_k);
  values.push_back(clusters);
  return values;
}

std::string weights_hash(const std::filesystem::path& model) { return hash_file_hex(model / "model.safetensors"); }

Evaluation evaluate_one(Device& device, const std::filesystem::path& model,
                        const std::vector<EvaluationDocument>& documents, int64_t length) {
  return evaluate_model(*InferenceModel::load(device, model), documents, length);
}

/// Perplexities of the models kept at equal distances on the way, and of the finished ones.
Json gain_curve(Device& device, const RunDirectory& run, const std::vector<EvaluationDocument>& documents,
                int64_t length, double temperature, const Json& last) {
  Json points = Json::array();
  int64_t count = 0;
  while (std::filesystem::exists(run.snapshot(count + 1))) ++count;
  const int64_t tokens = find_stage(run, "baseline")["summary"]["tokens"];
  const int64_t steps = find_stage(run, "baseline")["summary"]["steps"];
  for (int64_t number = 1; number <= count; ++number) {
    const RunDirectory snapshot(run.snapshot(number));
    const ExpertSet experts = ExpertSet::open({.experts = snapshot.experts(), .router = run.router()});
    if (static_cast<int64_t>(experts.experts().size()) != experts.router().clusters() ||
        !std::filesystem::exists(snapshot.baseline())) {
      warn(fmt::format("{}: not all models are there; left out of the curve", snapshot.root().string()));
      continue;
    }
    EvaluationOptions options{.length_max = length};
    const double power = experts.router().parts().distance_power;
    for (const int64_t top_k :
         {int64_t{1}, std::min<int64_t>(2, experts.router().clusters()), experts.router().clusters()})
      options.mixtures.push_back({top_k, temperature, power});
    const Evaluation ensemble = evaluate_ensemble(device, experts, documents, options);
    const int64_t step = number * steps / (count + 1);
    points.push_back({{"step", step},
                      {"tokens", step * (tokens / std::max<int64_t>(1, steps))},
                      {"dense", evaluate_one(device, snapshot.baseline(), documents, length).scores[0].perplexity()},
                      {"top_1", ensemble.scores[0].perplexity()},
                      {"top_2", ensemble.scores[1].perplexity()},
                      {"all", ensemble.scores[2].perplexity()}});
  }
  Json end = last;
  end["step"] = steps;
  end["tokens"] = tokens;
  points.push_back(end);
  return {{"points", points}};
}

}  // namespace

Json run_evaluation_stage(Device& device, const RunDirectory& run, bool redo, const std::string& command) {
  const ExpertSet experts = ExpertSet::open({.experts = run.experts()});
  const std::vector<int64_t> sweep = top_k_sweep(experts.router().clusters());
  StageRecord record{.name = "evaluate",
                     .settings = {{"split", "valid"}, {"top_k", sweep}, {"router_temperature", "tune"}},
                     .inputs = {{"router", experts.router().content_hash()},
                                {"seed", weights_hash(run.seed())},
                                {"baseline", weights_hash(run.baseline())}},
                     .command = command};
  for (const Expert& expert : experts.experts())
    record.inputs["expert/" + RunDirectory::cluster_name(expert.cluster)] = weights_hash(expert.directory);
  if (!stage_is_due(run, record, run.evaluation() / "ensemble.json", redo))
    return find_stage(run, "evaluate")["summary"];

  const auto start = std::chrono::steady_clock::now();
  const std::vector<EvaluationDocument> tuning = run_documents(run, "tune");
  const std::vector<EvaluationDocument> documents = run_documents(run, "valid");
  const int64_t length = experts.trained_length();
  const double power = experts.router().parts().distance_power;
  EvaluationOptions options{.mixtures = {{std::min<int64_t>(2, sweep.back()), 0.1, power}}, .length_max = length};
  const double temperature = tune_temperature(device, experts, tuning, options, temperature_candidates());
  say(fmt::format("router temperature {} is best for top-2 on {} tune documents", temperature, tuning.size()));
  record_temperature(experts.router(), temperature, power, run.experts_router());
  record_temperature(experts.router(), temperature, power, run.router());

  const Json described = {{"run", run.root().string()}, {"split", "valid"}};
  const auto evaluate = [&](const std::string& name, const std::filesystem::path& model) {
    const Evaluation evaluation = evaluate_one(device, model, documents, length);
    write_json_file(run.evaluation() / (name + ".json"),
                    evaluation_json(evaluation, {{"model", model.string()}, {"max_tokens", length}}, described));
    return evaluation.scores[0].perplexity();
  };
  Json summary = {{"documents", documents.size()},
                  {"clusters", sweep.back()},
                  {"router_temperature", temperature},
                  {"seed", evaluate("seed", run.seed())},
                  {"dense", evaluate("baseline", run.baseline())}};

  options.mixtures.clear();
  for (const int64_t top_k : sweep) options.mixtures.push_back({top_k, temperature, power});
  options.matrix = true;
  const Evaluation ensemble = evaluate_ensemble(device, experts, documents, options);
  summary["tokens"] = ensemble.scores[0].tokens;
  for (const Score& score : ensemble.scores) summary["top_k"].push_back({score.mixture.top_k, score.perplexity()});
  const Json settings = {{"experts", run.experts().string()},
                         {"top_k", sweep},
                         {"router_temperature", temperature},
                         {"distance_power", power},
                         {"routing", "token"},
                         {"max_tokens", length},
                         {"router_hash", experts.router().content_hash()}};
  const Json end = {{"dense", summary["dense"]},
                    {"top_1", ensemble.scores[0].perplexity()},
                    {"top_2", ensemble.scores[std::min<size_t>(1, sweep.size() - 1)].perplexity()},
                    {"all", ensemble.scores.back().perplexity()}};
  write_json_file(run.evaluation() / "curve.json", gain_curve(device, run, documents, length, temperature, end));
  write_json_file(run.evaluation() / "ensemble.json", evaluation_json(ensemble, settings, described));
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  record.summary = summary;
  record_stage(run, record);
  std::filesystem::remove_all(run.snapshots());
  return summary;
}

void print_evaluation(const Json& evaluation) {
  const double dense = evaluation["dense"];
  fmt::print("perplexity on {} held-out documents, {} tokens (router temperature {})\n",
             format_count(evaluation["documents"].get<int64_t>()), format_count(evaluation["tokens"].get<int64_t>()),
             evaluation["router_temperature"].get<double>());
  const auto line = [&](const std::string& name, double perplexity) {
    fmt::print("  {:<18} {:>9.3f}   {:>+6.2f} %\n", name, perplexity, 100 * (perplexity / dense - 1));
  };
  line("seed", evaluation["seed"]);
  fmt::print("  {:<18} {:>9.3f}\n", "dense baseline", dense);
  for (const Json& entry : evaluation["top_k"])
    line(entry[0] == evaluation["clusters"] ? fmt::format("ensemble, all {}", entry[0].get<int64_t>())
                                            : fmt::format("ensemble, top-{}", entry[0].get<int64_t>()),
         entry[1]);
}

}  // namespace cbtm
